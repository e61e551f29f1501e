"""Mistakes in values: each is refused before anything is made, in words that name the value."""

import pytest
from charts import template

pytestmark = pytest.mark.usefixtures("chart_tools")

MISTAKES = {
    # what the schema sees
    "a key that is not there": ("servng: {enabled: true}", "servng"),
    "a service that is not there": ("serving: {services: {translator: {enabled: true}}}", "translator"),
    "a typo within a service": ("serving: {services: {sentiment: {minReplica: 2}}}", "minReplica"),
    "a typo within an option": ("serving: {options: {maxItem: 10}}", "maxItem"),
    "a typo within security": ("security: {token: {source: none}}", "token"),
    "zero replicas": ("serving: {services: {sentiment: {minReplicas: 0}}}", "/serving/services/sentiment/minReplicas"),
    "negative replicas": ("serving: {together: {maxReplicas: -1}}", "/serving/together/maxReplicas"),
    "replicas in words": (
        "serving: {services: {sentiment: {minReplicas: two}}}",
        "/serving/services/sentiment/minReplicas",
    ),
    "a truth in quotes": ('serving: {enabled: "yes"}', "/serving/enabled"),
    "a layout that is not there": ("serving: {layout: spilt}", "/serving/layout"),
    "a port that needs a privilege": (
        "serving: {services: {sentiment: {port: 443}}}",
        "/serving/services/sentiment/port",
    ),
    "a port beyond the last": ("serving: {probePort: 70000}", "/serving/probePort"),
    "memory without a unit": ("serving: {services: {sentiment: {memory: 3 GB}}}", "/serving/services/sentiment/memory"),
    "memory as a number": ("training: {head: {memory: 4}}", "/training/head/memory"),
    "half a GPU": ("serving: {services: {sentiment: {gpu: 0.5}}}", "/serving/services/sentiment/gpu"),
    "no room for a rolling update": ("serving: {surge: 0}", "/serving/surge"),
    "GPUs in the group without any": ("training: {groups: {cpu: {gpu: 1}}}", "/training/groups/cpu/gpu"),
    "root": ("pods: {runAsUser: 0}", "/pods/runAsUser"),
    "a node port": ("serving: {service: {type: NodePort}}", "/serving/service/type"),
    "a source of certificates that is not there": ("security: {tls: {source: selfsigned}}", "/security/tls/source"),
    "a share above one": ("serving: {options: {abstainBelow: 50}}", "/serving/options/abstainBelow"),
    "models that are never looked for": ("serving: {options: {pollSeconds: 0}}", "/serving/options/pollSeconds"),
    "a notice that no probe notices": ("serving: {options: {noticeSeconds: 4}}", "/serving/options/noticeSeconds"),
    "a path that is not there": ("serving: {options: {paths: quick}}", "/serving/options/paths"),
    "a schedule that is none": ("retraining: {schedule: daily at 3}", "/retraining/schedule"),
    "retraining of what is not there": ("retraining: {tasks: [translator]}", "/retraining/tasks/0"),
    "a flag that is none": ("retraining: {tasks: [sentiment], flags: [epochs=3]}", "/retraining/flags/0"),
    "a tag with a space": ('image: {tag: "0.1 0"}', "/image/tag"),
    "a Ray that the chart does not know": ("ray: {version: 2.40.0}", "/ray/version"),
    "a peer that is none": ("networkPolicy: {clients: [{namespace: shop}]}", "/networkPolicy/clients/0"),
    "a peer that is everybody": ("networkPolicy: {clients: [{}]}", "/networkPolicy/clients/0"),
    "an S3 address without s3": (
        "tracking: {artifacts: {store: s3, s3: {uri: bucket/path}}}",
        "/tracking/artifacts/s3/uri",
    ),
    "a collector with a password": (
        "serving: {options: {otlpEndpoint: 'http://a:b@c'}}",
        "/serving/options/otlpEndpoint",
    ),
    "a password in values": ("database: {internal: {password: hunter2}}", "password"),
    # what the chart sees
    "latest": ("image: {tag: latest}", "image.tag is latest"),
    "latest of Postgres": ("database: {internal: {image: 'postgres:latest'}}", "database.internal.image"),
    "Postgres without a version": ("database: {internal: {image: postgres}}", "database.internal.image"),
    "nothing": (
        "{serving: {enabled: false}, training: {enabled: false}, tracking: {enabled: false}}",
        "nothing to install",
    ),
    "no service": (
        "serving: {services: {classifier: &off {enabled: false}, sentiment: *off, recommender: *off}}",
        "no service under serving.services is enabled",
    ),
    "two services on one port": (
        "serving: {services: {sentiment: {port: 9001}}}",
        "sentiment.port is 9001, which is also serving.services.classifier.port",
    ),
    "a service on the probe port": ("serving: {services: {sentiment: {port: 9100}}}", "also serving.probePort"),
    "metrics on the probe port": ("serving: {metricsPort: 9100}", "serving.metricsPort and serving.probePort"),
    "a port of Ray's": ("serving: {metricsPort: 8080}", "serving.metricsPort is 8080, a port of Ray's own"),
    "a service on a port of Ray's": ("serving: {services: {sentiment: {port: 6379}}}", "a port of Ray's own"),
    "more at least than at most": (
        "serving: {services: {sentiment: {minReplicas: 5}}}",
        "serving.services.sentiment.minReplicas is 5 and maxReplicas 2",
    ),
    "less held than a request": (
        "serving: {options: {maxHeldBytes: 5000}}",
        "serving.options.maxHeldBytes is 5000; it must be at least maxMessageBytes, 4194304",
    ),
    "a queue shorter than a call": ("serving: {options: {maxWaiting: 10}}", "serving.options.maxWaiting is 10"),
    "payloads without a log": (
        "serving: {options: {accessLog: false, logPayloadBytes: 100}}",
        "there is no log to put them into",
    ),
    "fault tolerance without Redis": ("serving: {faultTolerance: {enabled: true}}", 'redisAddress is ""'),
    "Redis with a password in its address": (
        "serving: {faultTolerance: {enabled: true, redisAddress: 'redis://:secret@redis:6379'}}",
        "the password as passwordSecret",
    ),
    "a certificate from nowhere": ("security: {tls: {source: secret}}", "security.tls.secretName names none"),
    "a certificate that is not used": ("security: {tls: {secretName: mine}}", "set the source to secret"),
    "cert-manager without an issuer": ("security: {tls: {source: certManager}}", "issuerName names no issuer"),
    "plaintext by accident": ("security: {tls: {source: none}, tokens: {source: none}}", "security.allowPlaintext"),
    "plaintext that is not": ("security: {allowPlaintext: true}", "speaks TLS"),
    "tokens in the clear": ("security: {tls: {source: none}, allowPlaintext: true}", "tokens sent in the clear"),
    "client certificates without TLS": (
        "security: {tls: {source: none, clientCaSecret: ca}, tokens: {source: none}, allowPlaintext: true}",
        "clientCaSecret needs TLS",
    ),
    "nobody asks": ("security: {tokens: {source: none}}", "nothing asks callers who they are"),
    "anonymous with tokens": ("security: {allowAnonymous: true}", "security.allowAnonymous is true"),
    "anonymous without a NetworkPolicy": (
        "{security: {tokens: {source: none}, allowAnonymous: true}, networkPolicy: {enabled: false}}",
        "the only lock",
    ),
    "tokens from nowhere": ("security: {tokens: {source: secret}}", "security.tokens.secretName names none"),
    "half a JWT": ("security: {jwt: {secretName: keys}}", "secretName, issuer and audience need each other"),
    "Ray's TLS without an authority": ("security: {rayTls: {enabled: true}}", "security.rayTls.caSecret"),
    "auth off in public": (
        "{security: {tokens: {source: none}, allowAnonymous: true}, serving: {service: {type: LoadBalancer}}}",
        "would let anybody in",
    ),
    "auth off behind a Gateway": (
        "{security: {tokens: {source: none}, allowAnonymous: true}, exposure: {gateway: {enabled: true}}}",
        "exposure.gateway would let anybody in",
    ),
    "a Gateway without a host": ("exposure: {gateway: {enabled: true, name: public}}", "exposure.host is empty"),
    "a Gateway without a name": (
        "exposure: {host: a.example.org, gateway: {enabled: true}}",
        "exposure.gateway.name names no Gateway",
    ),
    "a Gateway that the NetworkPolicy keeps out": (
        "exposure: {host: a.example.org, gateway: {enabled: true, name: public}}",
        "exposure.gateway.dataNamespace is empty",
    ),
    "a Gateway that cannot check": (
        "exposure: {host: a.example.org, gateway: {enabled: true, name: public, dataNamespace: gateways}}",
        "exposure.gateway.caName is empty",
    ),
    "an Ingress without TLS": (
        "exposure: {host: a.example.org, ingress: {enabled: true, dataNamespace: nginx}}",
        "exposure.ingress.tlsSecretName",
    ),
    "an Ingress before client certificates": (
        "{security: {tls: {clientCaSecret: ca}}, exposure: {host: a.example.org, ingress: {enabled: true, "
        "tlsSecretName: tls, dataNamespace: nginx}}}",
        "an Ingress shows gRPC services none",
    ),
    "an Ingress to nothing": (
        "{serving: {enabled: false}, exposure: {host: a.example.org, ingress: {enabled: true}}}",
        "serving.enabled is false",
    ),
    "Pods of one run without a shared folder": (
        "training: {groups: {cpu: {maxReplicas: 2}}}",
        "set training.storage.existingClaim",
    ),
    "training without Pods": ("training: {groups: {cpu: {enabled: false}}}", "no group under training.groups"),
    "jobs on GPUs that are not there": ("training: {job: {group: gpu}}", "training.groups.gpu is not enabled"),
    "retraining without a cluster": (
        "{training: {enabled: false}, retraining: {tasks: [sentiment]}}",
        "retraining.tasks needs the training cluster",
    ),
    "a secret among flags": (
        "retraining: {tasks: [sentiment], flags: ['--data=s3://user:key@bucket']}",
        "what looks like a secret",
    ),
    "two MLflows": ("tracking: {uri: 'https://mlflow.example.org'}", "give one of them"),
    "no MLflow": ("tracking: {enabled: false}", "tracking.uri names no MLflow"),
    "a password in MLflow's address": (
        "tracking: {enabled: false, uri: 'https://a:b@mlflow.example.org'}",
        "give them as tracking.authSecret",
    ),
    "MLflow for every web page": ("tracking: {allowedHosts: ['*']}", "lets any web page reach MLflow"),
    "an MLflow behind a closed port": (
        "tracking: {enabled: false, uri: 'http://mlflow.ml.svc:5000'}",
        "tracking.uri is reached on port 5000, which networkPolicy.egress.internetPorts closes; add 5000 to that list",
    ),
    "an MLflow behind the closed port of its scheme": (
        "tracking: {enabled: false, uri: 'http://mlflow.example.org/ours:1'}",
        "tracking.uri is reached on port 80,",
    ),
    "an S3 behind a closed port": (
        "tracking: {artifacts: {store: s3, s3: {uri: 's3://models', endpoint: 'http://minio:9000'}}}",
        "tracking.artifacts.s3.endpoint is reached on port 9000, which networkPolicy.egress.internetPorts closes",
    ),
    "a collector behind a closed port": (
        "serving: {options: {otlpEndpoint: 'http://otel:4318'}}",
        "serving.options.otlpEndpoint is reached on port 4318, which networkPolicy.egress.internetPorts closes",
    ),
    "artifacts nowhere": ("tracking: {artifacts: {store: s3}}", "tracking.artifacts.s3.uri says not where"),
    "a database nowhere": ("database: {kind: external}", "database.external.secretName names no Secret"),
    "a database that is not used": ("database: {external: {secretName: mine}}", "set the kind to external"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_in_words_that_name_it(mistake: str):
    values, words = MISTAKES[mistake]
    output = template(values)
    assert output.returncode != 0, f"{mistake} was taken"
    assert words in " ".join(output.stderr.split()), output.stderr
    assert "nil pointer" not in output.stderr


@pytest.mark.parametrize(
    "values",
    [
        "serving: {options: {otlpEndpoint: 'https://otel.example.org'}}",
        "{serving: {options: {otlpEndpoint: 'http://otel:4318'}}, networkPolicy: {egress: {internetPorts: [4318]}}}",
        "{serving: {options: {otlpEndpoint: 'http://[::1]:4318'}}, networkPolicy: {egress: {enabled: false}}}",
        "{serving: {options: {otlpEndpoint: 'http://otel:4318'}}, networkPolicy: {enabled: false}}",
        "{serving: {enabled: false, options: {otlpEndpoint: 'http://otel:4318'}}}",
        "tracking: {artifacts: {s3: {endpoint: 'http://minio:9000'}}}",
    ],
)
def test_a_url_on_an_open_port_or_that_nobody_uses_is_taken(values: str):
    output = template(values)
    assert output.returncode == 0, output.stderr


@pytest.mark.parametrize("name", ["a-release-with-a-name-that-is-too-long-for-ray", "9lives"])
def test_a_release_name_that_services_cannot_bear_is_refused(name: str):
    from charts import CHART, helm

    output = helm("template", name, str(CHART), "--kube-version", "1.37.0")
    assert output.returncode != 0
    assert "release name" in output.stderr
