"""Which Oracle realm a region is in, and a realm's domain. Data alone.

Source: oci 2.189.0, regions_definitions.py, and the service's endpoint template in generative_ai_inference_client.py. A
region that is not here is taken to be in oc1, as Oracle's own tools do; `realm` in the config says otherwise."""

DOMAINS = {
    "oc1": "oraclecloud.com",
    "oc2": "oraclegovcloud.com",
    "oc3": "oraclegovcloud.com",
    "oc4": "oraclegovcloud.uk",
    "oc8": "oraclecloud8.com",
    "oc9": "oraclecloud9.com",
    "oc10": "oraclecloud10.com",
    "oc14": "oraclecloud14.com",
    "oc15": "oraclecloud15.com",
    "oc19": "oraclecloud.eu",
    "oc20": "oraclecloud20.com",
    "oc21": "oraclecloud21.com",
    "oc23": "oraclecloud23.com",
    "oc24": "oraclecloud24.com",
    "oc26": "oraclecloud26.com",
    "oc29": "oraclecloud29.com",
    "oc35": "oraclecloud35.com",
    "oc42": "oraclecloud42.com",
    "oc51": "oraclecloud51.com",
    "oc52": "oraclecloud52.com",
}

REALMS = {
    "oc2": ("us-langley-1", "us-luke-1"),
    "oc3": ("us-gov-ashburn-1", "us-gov-chicago-1", "us-gov-phoenix-1"),
    "oc4": ("uk-gov-london-1", "uk-gov-cardiff-1"),
    "oc8": ("ap-chiyoda-1", "ap-ibaraki-1"),
    "oc9": ("me-dcc-muscat-1", "me-ibri-1"),
    "oc10": ("ap-dcc-canberra-1",),
    "oc14": (
        "eu-dcc-milan-1",
        "eu-dcc-milan-2",
        "eu-dcc-dublin-1",
        "eu-dcc-dublin-2",
        "eu-dcc-rating-1",
        "eu-dcc-rating-2",
    ),
    "oc15": ("ap-dcc-gazipur-1",),
    "oc19": ("eu-madrid-2", "eu-frankfurt-2"),
    "oc20": ("eu-jovanovac-1",),
    "oc21": ("me-dcc-doha-1", "me-alrayyan-1"),
    "oc23": ("us-somerset-1", "us-thames-1"),
    "oc24": ("eu-dcc-zurich-1", "eu-crissier-1"),
    "oc26": ("me-abudhabi-3", "me-alain-1"),
    "oc29": ("me-abudhabi-2", "me-abudhabi-4"),
    "oc35": ("ap-seoul-2", "ap-suwon-1", "ap-chuncheon-2"),
    "oc42": ("us-ashburn-2", "us-newark-1"),
    "oc51": ("eu-budapest-1",),
    "oc52": ("sa-riodejaneiro-1",),
}
"""The regions outside oc1."""

_REALM_OF = {region: realm for realm, regions in REALMS.items() for region in regions}


def domain(region: str, realm: str | None) -> str:
    """The second-level domain of a region. Raises ValueError for a realm that is not known."""
    realm = realm or _REALM_OF.get(region, "oc1")
    if realm not in DOMAINS:
        raise ValueError(f"'realm' {realm} is not known; known: {', '.join(DOMAINS)}; any other place is said by 'url'")
    return DOMAINS[realm]
