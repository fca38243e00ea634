"""The fixed demo key pair of the box, and the check of a signature made with it; no other cryptography lives here.

The private key is public: it opens nothing but the sandbox. It is here so that clients can sign as they would for a
real cloud, and the box can be as strict as one.
"""

import hashlib

KEY_ID = "sandbox-key-1"
PRIVATE_PEM = """\
-----BEGIN PRIVATE KEY-----
MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQDKL6bRD/dDYwik
BftIkyiPgPjjJyvgh3LcJ7yM82nIbdDAhuvWR1/dvwI+A0uanL9pFusaGtjfUHzc
Mowl7w8ns0FQE4s40rXJNgtTcpVvWeIyuyf5ezPTuXLG1JApfUP45qU8wwJK6N41
DQjBbUPxbgt2kqt38Scq2sB+M/eJCPIOrIygU2pSOMj6o+v5wQrFlETR0Mptpv44
tglB7LEg1rUGqIJTOYelK0ARyeNmY6CtvVhkY2XvAnwVy9eMdrb1/5OJ+x5sqHFg
y6R00TdZJWkaMULsqerh3u00OOcm9lWRA1x49ohAU9kFbaeQdXO0dpC9N22NMXJ8
OBJxqH3DAgMBAAECggEALNVxO9W7Ak3hGiIbbSX4rg2u4wwKHkFa1nfXRzgowmGb
kz236S2tk+npsN+hMblFdqO24XSHl8lszpVE35qJtUd6GawjyKds2R/rVgdIHMeF
MbOvsxI/VVk/mtiC2ThmTLi0dmtVxE+sCn6H7QByOwSodRQkArZOdaHJYpLadp/I
ftgd4isAd2LbxlKhZx4pSVreeA/HH9UwqsNiEmS3gAZWz8TWGj026+t4I1XegiHI
KMv02L2LfMqUmxTtZMACxobHmB2G7evxZTm3uj2hW1TyrOGyiuQVhOZccERbYt/W
RldzMJzFnCEa2JNpFG8e8r8C3NWeeeBjGFCmkaKTqQKBgQD1rVu8MJTO9Sii5Gok
g9jFg6JyLAANZJ327YjuAc5Y0M4qTr2x6dYgY6nqiR7MoFAriau26mW8w4GdDuWR
WylwoCG00sCnxUzF+dHyLbAe8a3R6PweRB5x1+XZBnLrxSS9HFk1qOxcu1BTkSlI
HVTzWKILhXPj5L5dlVo4GR40yQKBgQDSrnquxJVvyMb87LCIBai0vPqJcmrRz6EG
hPatR5dgHLQ+r+0JNA0cLOoVtPQ7Z9FyS2lWNcRn45qQxDJ2ZRE2rud6Ks/DtKbA
NlPheJQ60SxsoHz2tM/ZhTblJsZU4iLjqaqS5sO/U2U35d27d88neykOYFVEUF1c
rGMS19igKwKBgQDBSwsxDpwWFOdK+iHU5vNnu4DVCW9lGjP6srsYX81lLav3t4oi
b9NsGl32zLmxz7Qj/SZgPR2cncnds3nFmo8JMMQ0S9kOZvpXjY20WGQIhKf4zrGG
cpvtgCs0TJGglLSqIaLCyExnTW0OwthTB9jtuV+NZwteU3u/j6GzH3gXmQKBgF5n
7vOXhXsU1g4KJcSd/I4YzI+ApNsllfts43icRvm7gw1AGhBwsZs5iR92+aYRDGqR
3j7SUxNWizFpqU8iVMdTMsisnHMO5VXmQkoblRiSGL0IYVbPiP/o0MN4T5FDz+yC
X7v6CicWwJl+uJBDzKDdcHVPt4WoGV3opXCRJjIHAoGBAJhPmfOe3UKZDFAwJY9r
kWVLrrTWqPfEHuSr7zwGbIvH+DVwrVHmncLDUvLy65o+3u22/DPDLWUIv4gF/r7O
buTTGuUsTePdc7Q77t+tJBKbSIOCT9PnBG9gpE+dnBFsitliMZaL3DZeOj/rB/T2
JzAvQLmG4cOdbyy/dHU43elc
-----END PRIVATE KEY-----
"""
EXPONENT = 65537
MODULUS = int(
    "ca2fa6d10ff7436308a405fb4893288f80f8e3272be08772dc27bc8cf369c86dd0c086ebd6475fddbf023e034b9a9cbf"
    "6916eb1a1ad8df507cdc328c25ef0f27b34150138b38d2b5c9360b5372956f59e232bb27f97b33d3b972c6d490297d43"
    "f8e6a53cc3024ae8de350d08c16d43f16e0b7692ab77f1272adac07e33f78908f20eac8ca0536a5238c8faa3ebf9c10a"
    "c59444d1d0ca6da6fe38b60941ecb120d6b506a882533987a52b4011c9e36663a0adbd58646365ef027c15cbd78c76b6"
    "f5ff9389fb1e6ca87160cba474d1375925691a3142eca9eae1deed3438e726f65591035c78f6884053d9056da7907573"
    "b47690bd376d8d31727c381271a87dc3",
    16,
)
_SHA256_PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")  # RFC 8017, section 9.2, note 1


def signed_with_demo_key(message: bytes, signature: bytes) -> bool:
    """Whether this is the RSASSA-PKCS1-v1_5 signature with SHA-256 (RFC 8017, section 8.2.2) of the message."""
    size = (MODULUS.bit_length() + 7) // 8
    if len(signature) != size:
        return False
    opened = pow(int.from_bytes(signature, "big"), EXPONENT, MODULUS).to_bytes(size, "big")
    digest = _SHA256_PREFIX + hashlib.sha256(message).digest()
    return opened == b"\x00\x01" + b"\xff" * (size - len(digest) - 3) + b"\x00" + digest
