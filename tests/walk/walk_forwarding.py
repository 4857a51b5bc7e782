"""What the backend is sent of a client's handshake (sections 4 and 4.1)."""

import raw
from backend import PREFIX
from checks import check, equal, holds, one_of


def asked(world, headers=(), path="/ws/", plan=None):
    """The bootstrap request that a handshake causes."""
    plan = plan or world.backend.plan()
    client = world.raw(plan=plan, path=path, headers=headers)
    equal(client.read_json(), {"is_authorized": True, "allowed_rooms": []}, "first frame")
    return plan.bootstraps()[0]


@check()
def the_backend_is_asked_by_get_at_api_url_plus_bootstrap(world):
    request = asked(world, path="/ws/?a=b&token=t")
    equal([request.method, request.target], ["GET", PREFIX + "bootstrap/"], "request")
    equal(request.body, b"", "body")


@check()
def the_host_is_that_of_the_api(world):
    plan = world.backend.plan()
    headers = {**raw.upgrade("app.example.org"), "Cookie": plan.cookie}
    equal(world.exchange(raw.request("/ws/", headers))[0], 101, "status")
    equal(plan.wait("bootstrap/")[0].header("Host"), world.backend.host, "Host")


COOKIES = {
    "several, odd spacing": b'a="x y";;b = c ; weird=%zz;d',
    "UTF-8": "name=käse".encode(),
    "Latin-1": b"name=k\xe4se",
    "no pair at all": b";;;=",
    "duplicates": b"a=1; a=2; A=3",
}


@check(cases=COOKIES)
def the_cookie_arrives_byte_for_byte(world, case):
    plan = world.backend.plan()
    cookie = plan.cookie.encode() + b"; " + case
    request = asked(world, [(b"Cookie", cookie)], plan=plan)
    equal(request.header("Cookie").encode("latin-1"), cookie, "Cookie")


@check()
def of_two_cookie_headers_the_first_or_both_arrive(world):
    plan = world.backend.plan()
    request = asked(world, [("Cookie", plan.cookie), ("Cookie", "b=2")], plan=plan)
    equal(request.header("Cookie"), f"{plan.cookie}; b=2", "Cookie")


@check()
def without_a_cookie_none_is_sent(world):
    plan = world.backend.plan()
    client = world.socket()
    client.send(raw.request(f"/ws/?token={plan.key}", raw.upgrade(world.server.host)))
    equal(client.response()[0], 101, "status")
    equal(plan.wait("bootstrap/")[0].header("Cookie"), None, "Cookie")


@check(cases={name: name for name in ["User-Agent", "X-Real-IP"]})
def user_agent_and_real_ip_are_passed_on(world, case):
    equal(asked(world, [(case, "10.1.2.3 (x; y)")]).header(case), "10.1.2.3 (x; y)", case)
    equal(asked(world, [(case.upper(), "in capitals")]).header(case), "in capitals", case)


@check()
def lines_of_a_header_are_joined(world):
    request = asked(world, [("User-Agent", "first"), ("User-Agent", "second")])
    equal(request.header("User-Agent"), "first, second", "User-Agent")


@check(cases={"an address": "10.1.2.3", "no address": "second"})
def of_several_real_ips_the_last_counts(world, case):
    equal(asked(world, [("X-Real-IP", "10.9.9.9"), ("X-Real-IP", case)]).header("X-Real-IP"), case, "X-Real-IP")


@check(cases={"absent": [], "empty": [("X-Real-IP", "")]})
def without_a_real_ip_none_is_sent(world, case):
    equal(asked(world, case).header("X-Real-IP"), None, "X-Real-IP")


@check(cases={"absent": [], "empty": [("User-Agent", "")]})
def without_a_user_agent_it_is_the_library_s_own_or_none(world, case):
    agent = asked(world, case).header("User-Agent")
    holds(agent is None or len(agent) > 0, "User-Agent", "absent or not empty", agent)


CSRF = {
    "plain": ("csrftoken=abc", ["abc"]),
    "not there": ("other=abc", [None]),
    "name in capitals": ("CSRFTOKEN=abc", [None]),
    "longer name": ("xcsrftoken=abc; csrftoken2=d", [None]),
    "blanks around name and value": (" csrftoken  =  abc  ", ["abc"]),
    "first of duplicates": ("csrftoken=one; csrftoken=two", ["one"]),
    "everything after the first =": ("csrftoken=a=b==", ["a=b=="]),
    "double quotes removed": ('csrftoken="a b"', ["a b"]),
    "escapes undone": (r'csrftoken="a\"b\\c\101"', ['a"b\\cA']),
    "no percent-decoding": ("csrftoken=%41+b", ["%41+b"]),
    "empty": ("csrftoken=", [None, ""]),
}


@check(cases=CSRF)
def the_csrf_header_comes_from_the_cookie(world, case):
    cookie, expected = case
    plan = world.backend.plan()
    request = asked(world, [("Cookie", f"{plan.cookie};{cookie}")], plan=plan)
    one_of(request.header("X-CSRFToken"), expected, "X-CSRFToken")


TOKENS = {
    "plain": ("token=abc", "Token abc"),
    "absent": ("x=abc", None),
    "empty": ("token=", None),
    "without =": ("token", None),
    "plus is a space": ("token=a+b", "Token a b"),
    "percent-decoded": ("token=%41%2Bb%26c", "Token A+b&c"),
    "name percent-decoded": ("%74oken=abc", "Token abc"),
    "first of duplicates": ("token=one&token=two", "Token one"),
    "first of duplicates, empty": ("token=&token=two", None),
    "name in capitals": ("Token=abc", None),
    "after others": ("a=1&b=2&token=abc&c", "Token abc"),
    "; does not separate": ("a=1;token=abc", None),
    "; is part of the value": ("token=a;b=c", "Token a;b=c"),
    "= in the value": ("token=a=b", "Token a=b"),
}


@check(cases=TOKENS)
def the_authorization_comes_from_the_token_parameter(world, case):
    query, expected = case
    for path in ("/ws/", "/ws"):
        equal(asked(world, path=f"{path}?{query}").header("Authorization"), expected, f"Authorization for {path}")


PRIVATE = [
    "Authorization",
    "Referer",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "Forwarded",
    "Accept-Language",
    "X-CSRFToken",
    "X-Session-Token",
    "X-Custom",
    "Via",
    "From",
]


@check(cases={name: name for name in PRIVATE})
def nothing_else_is_forwarded(world, case):
    request = asked(world, [(case, "only-between-us")])
    head = request.head.decode("latin-1")
    holds("only-between-us" not in head, "head of the backend's request", f"no {case}", head)


@check()
def origin_and_websocket_headers_are_not_forwarded(world):
    request = asked(world, [("Origin", f"http://{world.server.host}"), ("Sec-WebSocket-Protocol", "soap")])
    names = [name for name, _ in request.headers]
    equal([n for n in names if n == "origin" or n == "upgrade" or n.startswith("sec-")], [], "headers at the backend")
    allowed = {"host", "cookie", "user-agent", "accept", "accept-encoding", "connection", "content-length"}
    equal(sorted(set(names) - allowed), [], "headers at the backend that no rule explains")


EVIL = {"LF": "%0A", "CR LF": "%0D%0AX-Evil:%201", "CR": "%0D", "NUL": "%00"}


@check(cases=EVIL)
def a_token_with_a_line_break_never_reaches_the_wire(world, case):
    plan = world.backend.plan()
    client = world.socket()
    headers = {**raw.upgrade(world.server.host), "Cookie": plan.cookie}
    client.send(raw.request(f"/ws/?token=a{case}b", headers))
    status, _, _ = client.response()
    one_of(status, [101, 400], "status")
    if status == 101:
        equal(client.read_json(), {"is_authorized": False}, "first frame")
        client.rest()
    equal([r.head.decode("latin-1") for r in plan.requests()], [], "requests to the backend")


@check()
def a_connection_asks_once(world):
    client = world.connect()
    client.ask("ping")
    client.close()
    equal(len(client.plan.requests()), 1, "requests to the backend")
