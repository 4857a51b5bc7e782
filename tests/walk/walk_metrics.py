"""The numbers in both text formats, as Prometheus's own library reads them."""

import prometheus_client.openmetrics.parser
import prometheus_client.parser
from checks import check, equal, holds

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def metrics(world, accept=None):
    """The type of the answer, and the families in it by name."""
    headers = {} if accept is None else {"Accept": accept}
    status, headers, body = world.server.internal("GET", "/metrics", headers=headers)
    equal(status, 200, "status")
    text, content_type = body.decode(), headers["Content-Type"]
    openmetrics = prometheus_client.openmetrics.parser.text_string_to_metric_families
    prometheus = prometheus_client.parser.text_string_to_metric_families
    parse = openmetrics if content_type == OPENMETRICS else prometheus
    return content_type, {family.name: family for family in parse(text)}, text


@check()
def both_formats_hold_the_same_numbers(world, publish):
    publish({"rooms": [], "data": 1})
    openmetrics_type, openmetrics, _ = metrics(world, "application/openmetrics-text;version=1.0.0,*/*;q=0.1")
    prometheus_type, prometheus, text = metrics(world, "text/plain;version=0.0.4")
    equal((openmetrics_type, prometheus_type), (OPENMETRICS, PROMETHEUS), "types")
    # A line that is not understood would be a family of its own, or one without a type.
    equal(sorted(prometheus), sorted(openmetrics), "families")
    for name, family in openmetrics.items():
        equal(prometheus[name].type, family.type, f"type of {name}")
        equal(prometheus[name].documentation, family.documentation, f"help of {name}")
        series = lambda family: sorted((sample.name, sorted(sample.labels.items())) for sample in family.samples)
        equal(series(prometheus[name]), series(family), f"series of {name}")
    holds("# EOF" not in text and "# UNIT" not in text, "Prometheus text", "nothing of OpenMetrics", text[-200:])


@check(cases={"none": None, "anything": "*/*", "plain text": "text/plain", "a browser's": "text/html,*/*;q=0.8"})
def prometheus_text_is_what_is_written_unless_openmetrics_is_preferred(world, case):
    content_type, families, _ = metrics(world, case)
    equal(content_type, PROMETHEUS, "Content-Type")
    equal(families["high_templar_triggers"].type, "counter", "type of high_templar_triggers")
