"""The Helm chart checks `.Values.config` by the schema of this very gateway."""

from helm import values_schema


def test_the_schema_of_the_charts_values_is_that_of_this_gateway():
    kept = (values_schema.CHART / "values.schema.json").read_text()
    assert kept == values_schema.text(), "run `python -m helm.values_schema` (or `make chart`)"
