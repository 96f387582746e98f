"""A Kafka that asks for certificates, passwords and tokens: what is delivered, what is said where it is not, and that
delivery goes on by itself once it is mended. Nothing is ever shown that is secret."""

import base64
import json
import time
from pathlib import Path

import pytest

from harness.authority import Authority
from harness.broker import Broker
from harness.process import free_port, wait_until
from harness.stub import Reply

ROUTES = Path(__file__).parent / "routes.yaml"

PASSWORD = "correct-horse-battery"
WRONG = "hunter2-is-wrong"
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


def shows_no_secret(proxy):
    shown = proxy.process.log.read_text() + proxy.admin("/api/v1/config") + proxy.metrics().text
    for secret in [PASSWORD, WRONG]:
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
