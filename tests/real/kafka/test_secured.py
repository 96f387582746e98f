"""A Kafka that asks for certificates, passwords and tokens: what is delivered, what is said where it is not, and that
delivery goes on by itself once it is mended. Nothing is ever shown that is secret."""

import base64
import json
import ssl
import time
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from harness.authority import Authority
from harness.broker import Broker
from harness.process import free_port, wait_until
from harness.stub import Reply

ROUTES = Path(__file__).parent / "routes.yaml"

PASSWORD = "correct-horse-battery"
WRONG = "hunter2-is-wrong"
CLIENT = "client-of-the-issuer"
JAAS = "org.apache.kafka.common.security"
TROUBLE = "delivery of pairs is in trouble"
LISTENERS = [("LOGIN", "SASL_PLAINTEXT"), ("TLS", "SSL"), ("MUTUAL", "SSL"), ("BOTH", "SASL_SSL")]


def properties(folder, name):
    """What makes a listener of that name ask for what it is to ask."""
    at = f"listener.name.{name.lower()}"
    yield f"{at}.ssl.keystore.type=PEM"
    yield f"{at}.ssl.keystore.location={folder}/broker.pem"
    yield f"{at}.ssl.truststore.type=PEM"
    yield f"{at}.ssl.truststore.location={folder}/ca.pem"
    yield f"{at}.ssl.client.auth={'required' if name == 'MUTUAL' else 'none'}"
    yield f"{at}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"
    yield f'{at}.plain.sasl.jaas.config={JAAS}.plain.PlainLoginModule required user_pairs="{PASSWORD}";'
    for scram in ["scram-sha-256", "scram-sha-512"]:
        yield f"{at}.{scram}.sasl.jaas.config={JAAS}.scram.ScramLoginModule required;"
    yield f'{at}.oauthbearer.sasl.jaas.config={JAAS}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
    unsecured = f"{JAAS}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
    yield f"{at}.oauthbearer.sasl.server.callback.handler.class={unsecured}"
    # Whose token has ended must log in anew.
    yield f"{at}.oauthbearer.connections.max.reauth.ms=3600000"


def secured(folder, authority, listeners=LISTENERS, **certificate):
    folder.mkdir(parents=True)
    (folder / "ca.pem").write_bytes(authority.certificate)
    (folder / "broker.pem").write_bytes(authority.sign(**certificate))
    more = [line for name, _ in listeners for line in properties(folder, name)]
    return Broker(folder, listeners, more)


def add_user(broker, user, *mechanisms):
    for mechanism in mechanisms:
        config = f"{mechanism}=[password={PASSWORD}]"
        entity = ["--entity-type", "users", "--entity-name", user]
        broker.tool("kafka.admin.ConfigCommand", "--alter", "--add-config", config, *entity)


@pytest.fixture(scope="module")
def authority():
    return Authority("The test's own CA")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, authority):
    """One broker with every kind of listener; the user `pairs` is known by password, and by SCRAM."""
    broker = secured(tmp_path_factory.mktemp("guarded") / "broker", authority)
    try:
        broker.start()
        add_user(broker, "pairs", "SCRAM-SHA-256", "SCRAM-SHA-512")
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def files(tmp_path, authority):
    """What a client has on its disk."""
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    (tmp_path / "client.pem").write_bytes(authority.sign("pairs"))
    return tmp_path


@pytest.fixture
def serve(proxy, stub, tmp_path):
    """serve(port, topic, NAME=value…) starts the proxy with these properties; `_` stands for `.` in names."""

    def start(port, topic, **properties):
        lines = [f"      {name.replace('_', '.')}: {json.dumps(value)}" for name, value in properties.items()]
        sink = tmp_path / "sink.yaml"
        sink.write_text("\n".join([
            "pairs:", "  kafka:", f'    brokers: ["localhost:{port}"]', f"    topic: {topic}", "    properties:",
            # `localhost` may be two addresses, of which the broker has one.
            "      broker.address.family: v4", *lines, "",
        ]))
        model = stub(lambda *_: Reply(b'{"score": 1}'))
        return proxy(
            ROUTES, sink, PROD_PORT=model.port, CANDIDATE_PORT=model.port, PASSWORD=PASSWORD, WRONG_PASSWORD=WRONG
        )

    return start


_topics = iter(range(1, 1000))


def topic_of(broker):
    return broker.topic(f"guarded-{next(_topics)}")


def ask(proxy, count):
    answers = proxy.ask_all([("POST", f"/score/{i}", b"{}", {}) for i in range(count)])
    assert {answer.status for answer in answers} == {200}


def delivers(proxy, broker, topic, count):
    """All that were ever asked, once each."""
    scrape = proxy.settled(count)
    assert (scrape.delivered, scrape.dropped, scrape.sum("shadowpair_sink_up")) == (count, 0, 1)
    seqs = sorted(json.loads(message.value())["seq"] for message in broker.read(topic))
    assert seqs == list(range(1, count + 1))
    shows_no_secret(proxy)


def shows_no_secret(proxy, *more):
    shown = proxy.process.log.read_text() + proxy.admin("/api/v1/config") + proxy.metrics().text
    for secret in [PASSWORD, WRONG, CLIENT, *more]:
        assert secret not in shown


def in_trouble(proxy, port, kind, *words):
    """The trouble is told: in one line, with the broker, the remedy, and under its kind."""
    ask(proxy, 10)
    wait_until(lambda: proxy.metrics().sum("shadowpair_sink_errors_total", kind=kind) >= 3, f"errors of kind {kind}")
    scrape = proxy.metrics()
    assert (scrape.waiting, scrape.delivered, scrape.sum("shadowpair_sink_up")) == (10, 0, 0)
    assert set(scrape.by("shadowpair_sink_errors_total", "kind")) == {kind}, scrape.text
    lines = [line for line in proxy.log() if line["level"] in ("WARN", "ERROR")]
    assert len(lines) == 1, lines
    told = json.dumps(lines[0])
    assert TROUBLE in told
    for word in [f"localhost:{port}", "pairs wait", kind, *words]:
        assert word in told, told
    shows_no_secret(proxy)


def login(mechanism, protocol="sasl_plaintext", user="pairs", password="${PASSWORD}"):
    return {
        "security_protocol": protocol, "sasl_mechanism": mechanism, "sasl_username": user, "sasl_password": password
    }


def ways(files):
    ca = {"ssl_ca_location": str(files / "ca.pem")}
    pem = str(files / "client.pem")
    return {
        "plain": ("LOGIN", login("PLAIN")),
        "scram-256": ("LOGIN", login("SCRAM-SHA-256")),
        "tls": ("TLS", {"security_protocol": "ssl", **ca}),
        "client certificate": (
            "MUTUAL", {"security_protocol": "ssl", "ssl_certificate_location": pem, "ssl_key_location": pem, **ca}
        ),
        "scram-512 over tls": ("BOTH", {**login("SCRAM-SHA-512", "sasl_ssl"), **ca}),
        "plain over tls": ("BOTH", {**login("PLAIN", "sasl_ssl"), **ca}),
        "unsigned token": (
            "LOGIN",
            {
                "security_protocol": "sasl_plaintext",
                "sasl_mechanism": "OAUTHBEARER",
                "enable_sasl_oauthbearer_unsecure_jwt": "true",
                "sasl_oauthbearer_config": "principal=pairs",
            },
        ),
        "token from a file": (
            "BOTH",
            {
                "security_protocol": "sasl_ssl",
                "sasl_mechanism": "OAUTHBEARER",
                "sasl_oauthbearer_token_endpoint_url": f"file://{files}/token",
                **ca,
            },
        ),
    }


def token(seconds=3600):
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
    now = int(time.time())
    return f"{part({'alg': 'none'})}.{part({'sub': 'pairs', 'iat': now, 'exp': now + seconds})}."


@pytest.mark.parametrize("way", list(ways(Path())))
def test_pairs_are_delivered_by_every_way_in(serve, guarded, files, way):
    (files / "token").write_text(token())
    listener, properties = ways(files)[way]
    topic = topic_of(guarded)
    one = serve(guarded.ports[listener], topic, **properties)
    ask(one, 30)
    delivers(one, guarded, topic, 30)


def test_a_user_that_is_unknown_is_told_and_delivers_once_it_was_added(serve, guarded):
    topic, port = topic_of(guarded), guarded.ports["LOGIN"]
    one = serve(port, topic, **login("SCRAM-SHA-512", user="newcomer"))
    in_trouble(one, port, "authentication", "sasl.username", "sasl.password")
    add_user(guarded, "newcomer", "SCRAM-SHA-512")
    delivers(one, guarded, topic, 10)


def test_a_wrong_password_is_told_and_not_shown(serve, guarded):
    topic, port = topic_of(guarded), guarded.ports["LOGIN"]
    one = serve(port, topic, **login("PLAIN", password="${WRONG_PASSWORD}"))
    in_trouble(one, port, "authentication", "sasl.username", "sasl.password")
    # Nothing could be delivered in its drain.
    one.process.kill()


def test_a_token_that_has_expired_is_told_and_the_next_one_is_taken(serve, guarded, files):
    (files / "token").write_text(token(-60))
    topic, port = topic_of(guarded), guarded.ports["BOTH"]
    one = serve(port, topic, **ways(files)["token from a file"][1])
    in_trouble(one, port, "authentication", "expired", str(files / "token"))
    (files / "token").write_text(token())
    delivers(one, guarded, topic, 10)


class Issuer:
    """An OIDC issuer on HTTPS, which gives tokens that live so many seconds, or refuses."""

    def __init__(self, stub, authority, folder):
        self.lives, self.refuses, self.given = 3600, None, []
        (folder / "issuer.pem").write_bytes(authority.sign())
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(folder / "issuer.pem")
        self.server = stub(self.answer, tls=tls)
        self.url = f"https://localhost:{self.server.port}/realms/test/token"
        self.ca = {"https_ca_location": str(folder / "ca.pem")}

    def answer(self, method, path, headers, body):
        if self.refuses:
            return Reply(json.dumps(self.refuses).encode(), status=401)
        self.given.append(token(self.lives))
        answer = {"access_token": self.given[-1], "token_type": "Bearer", "expires_in": self.lives}
        return Reply(json.dumps(answer).encode())

    def properties(self, files, **ca):
        return {
            "security_protocol": "sasl_ssl",
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauthbearer_method": "oidc",
            "sasl_oauthbearer_token_endpoint_url": f"{self.url}?tenant=one",
            "sasl_oauthbearer_client_id": CLIENT,
            "sasl_oauthbearer_client_secret": "${PASSWORD}",
            "sasl_oauthbearer_scope": "pairs all",
            "ssl_ca_location": str(files / "ca.pem"),
            **(ca or self.ca),
        }


@pytest.fixture
def oidc(stub, authority, files, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "localhost")
    return Issuer(stub, authority, files)


@pytest.mark.parametrize("trusted", ["https.ca.location", "https.ca.pem", "the system's"])
def test_a_token_of_an_oidc_issuer_lets_pairs_in_and_is_not_shown(serve, guarded, files, oidc, trusted, monkeypatch):
    # Also what is told to the curious.
    monkeypatch.setenv("RUST_LOG", "debug")
    # As if the system trusted it.
    monkeypatch.setenv("SSL_CERT_FILE", str(files / "ca.pem") if trusted == "the system's" else "")
    ca = {
        "https.ca.location": oidc.ca,
        "https.ca.pem": {"https_ca_pem": (files / "ca.pem").read_text()},
        "the system's": {"https_ca_location": "probe"},
    }[trusted]
    topic = topic_of(guarded)
    one = serve(guarded.ports["BOTH"], topic, **oidc.properties(files, **ca))
    ask(one, 30)
    delivers(one, guarded, topic, 30)
    shows_no_secret(one, *oidc.given, "tenant=one")
    [call] = oidc.server.calls
    assert (call.method, call.path) == ("POST", "/realms/test/token?tenant=one")
    assert parse_qs(call.body.decode()) == {"grant_type": ["client_credentials"], "scope": ["pairs all"]}
    basic = base64.b64encode(f"{CLIENT}:{PASSWORD}".encode()).decode()
    assert (call.headers["authorization"], call.headers["accept"]) == (f"Basic {basic}", "application/json")


def test_an_oidc_issuer_that_refuses_is_told_and_pairs_arrive_once_it_gives_a_token(serve, guarded, files, oidc):
    oidc.refuses = {"error": "invalid_client", "error_description": f"{CLIENT} is none of ours"}
    topic, port = topic_of(guarded), guarded.ports["BOTH"]
    one = serve(port, topic, **oidc.properties(files))
    words = [f"{oidc.url} answers 401 invalid_client", "none of ours", "`sasl.oauthbearer.client.secret`"]
    in_trouble(one, port, "authentication", *words)
    shows_no_secret(one, "tenant=one")
    oidc.refuses = None
    delivers(one, guarded, topic, 10)


def test_an_oidc_issuer_of_an_unknown_ca_is_told_and_trusted_once_its_ca_is_there(serve, guarded, files, oidc):
    ca = files / "issuer-ca.pem"
    ca.write_bytes(Authority("another CA").certificate)
    topic, port = topic_of(guarded), guarded.ports["BOTH"]
    one = serve(port, topic, **oidc.properties(files, https_ca_location=str(ca)))
    in_trouble(one, port, "authentication", oidc.url, "certificate verify failed", "`https.ca.location`")
    assert not oidc.server.calls
    ca.write_bytes((files / "ca.pem").read_bytes())
    delivers(one, guarded, topic, 10)


def test_a_token_of_an_oidc_issuer_is_renewed_before_it_ends(serve, guarded, files, oidc):
    oidc.lives = 15
    topic = topic_of(guarded)
    one = serve(guarded.ports["BOTH"], topic, **oidc.properties(files))
    began = time.monotonic()
    made = 0

    def outlived():
        nonlocal made
        ask(one, 1)
        made += 1
        return time.monotonic() - began > 2 * oidc.lives

    wait_until(outlived, "two tokens to end")
    delivers(one, guarded, topic, made)
    assert len(oidc.given) >= 3
    assert not troubles(one)


def troubles(proxy):
    return [line for line in proxy.log() if line["message"] == TROUBLE]


def test_an_oidc_issuer_that_gives_no_more_tokens_is_told_before_and_after_the_last_has_ended(serve, guarded, files, oidc):
    oidc.lives = 15
    topic = topic_of(guarded)
    one = serve(guarded.ports["BOTH"], topic, **oidc.properties(files))
    ask(one, 5)
    one.settled(5)
    oidc.refuses = {"error": "unauthorized_client"}
    [line] = wait_until(lambda: troubles(one), "the refusal to be told")
    assert (line["kind"], line["up"]) == ("authentication", True), line
    ask(one, 5)
    one.settled(10)
    # For as long as this one holds; then the brokers refuse it.
    wait_until(lambda: one.metrics().sum("shadowpair_sink_up") == 0, "the last token to end")
    ask(one, 5)
    wait_until(lambda: len(troubles(one)) > 1, "it to be told again")
    for line in troubles(one):
        assert f"{oidc.url} answers 401 unauthorized_client" in line["cause"], line
    oidc.refuses = None
    delivers(one, guarded, topic, 15)


def test_a_wrong_ca_is_told_and_the_right_one_is_read_once_it_is_there(serve, guarded, files):
    (files / "ca.pem").write_bytes(Authority("another CA").certificate)
    topic, port = topic_of(guarded), guarded.ports["TLS"]
    one = serve(port, topic, **ways(files)["tls"][1])
    in_trouble(one, port, "tls", "ssl.ca.location")
    (files / "ca.pem").write_bytes((guarded.folder / "ca.pem").read_bytes())
    delivers(one, guarded, topic, 10)


@pytest.mark.parametrize("fault", [{"expired": True}, {"host": "elsewhere.example"}], ids=["expired", "of another host"])
def test_a_certificate_is_told_and_the_broker_delivers_once_it_has_a_good_one(serve, files, authority, fault, tmp_path):
    broker = secured(tmp_path / "broker", authority, [("TLS", "SSL")], **fault)
    try:
        broker.start()
        topic, port = topic_of(broker), broker.ports["TLS"]
        one = serve(port, topic, **ways(files)["tls"][1])
        in_trouble(one, port, "tls", "expired", "another name", "ssl.ca.location")
        broker.stop()
        (broker.folder / "broker.pem").write_bytes(authority.sign())
        broker.start()
        delivers(one, broker, topic, 10)
        one.stop()
    finally:
        broker.kill()


def test_what_does_not_fit_is_told(serve, guarded, files):
    """One side speaks TLS, or asks for a login or a certificate, and the other does not."""
    tls = ways(files)["tls"][1]
    plaintext = {"security_protocol": "plaintext"}
    topic = topic_of(guarded)
    for port, properties, kind, words in [
        (guarded.port, tls, "tls", ["do not speak TLS"]),
        (guarded.ports["TLS"], plaintext, "tls", ["security.protocol", "sasl_ssl"]),
        (guarded.ports["LOGIN"], plaintext, "authentication", ["security.protocol", "sasl.mechanism"]),
        (guarded.ports["MUTUAL"], tls, "tls", ["ssl.certificate.location", "ssl.key.location"]),
        (guarded.port, login("PLAIN"), "authentication", ["sasl.mechanism"]),
        (free_port(), plaintext, "transport", ["nothing listens"]),
    ]:
        one = serve(port, topic, **properties)
        in_trouble(one, port, kind, *words)
        one.process.kill()
