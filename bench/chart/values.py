"""What the chart's values may be, but for `config`: JSON Schema, for Helm and for the table in docs/kubernetes.md."""

from __future__ import annotations

from bench.chart.shapes import Schema, flag, foreign, outward, port, secret, several, table, text, whole, words

IMAGE = table(
    repository=text(
        "where the image is; none is published yet, so build it (`docker/Dockerfile`) and push it to yours", minLength=1
    ),
    tag=text("not set: the chart's `appVersion`"),
    digest=text("`sha256:…`; goes before `tag`", pattern="^(sha256:[0-9a-f]{64})?$"),
    pullPolicy={"enum": ["Always", "IfNotPresent", "Never"], "description": "`IfNotPresent`, `Always` or `Never`"},
    pullSecrets=several("of the registry: `[{name: …}]`"),
)

PERSISTENCE = table(
    "a volume for `/var/lib/paceline`, where `config.ledger.path` and `config.experiments.path` may be",
    enabled=flag(
        "false: an `emptyDir`, which ends with the pod. True, with one replica: pods come one after the other (`Recreate`)"
    ),
    existingClaim=text("a claim of yours; not set: the chart makes one, and leaves it when it is uninstalled"),
    storageClass=text("not set: the cluster's default"),
    accessModes=several("several replicas need `[ReadWriteMany]`, and write in folders by their pods' names", "string"),
    size=text("of the claim that the chart makes"),
)

NETWORK_POLICY = table(
    enabled=flag("who may connect to whom; your network plugin must know NetworkPolicy"),
    data=table(from_=several("peers that may reach the data port; empty: everybody")),
    admin=table(
        from_=several("peers that may reach the admin port; as shipped, the namespace `monitoring`. The kubelet always may")
    ),
    egress=table(
        enabled=flag(
            "bounds outward connections to DNS and what follows. Ports are those of the pods behind a Service, not "
            "the Service's: set `ports` where they differ"
        ),
        upstreams=outward("`to`: peers, empty: anywhere; `ports`: not set: those of `config.upstreams`"),
        redis=outward("the same; ports of `config.shared.url`"),
        meter=outward("the same; ports of `config.energy.url` and of domains' `url`"),
        otlp=outward("the same; port of `otlp.endpoint`"),
        extra=several("more rules, as Kubernetes writes them (the Kubernetes API itself is not needed)"),
    ),
)

PROBE = {"type": "object"}

METER = table(
    "`paceline meter` on GPU nodes, a DaemonSet, for a proxy that runs elsewhere ([metering.md](metering.md))",
    enabled=flag("run it"),
    meters={
        "type": "array",
        "minItems": 1,
        "items": {"enum": ["nvml", "amd", "rapl", "auto"]},
        "description": "which meters: `nvml`, `amd`, `rapl`, `auto`",
    },
    devices=several("indices or UUIDs; empty: all", "string"),
    port=port("it listens there"),
    hostPort=port("the same on the node's own address, so that a proxy can name each node; 0: none", 0),
    keySecret=secret("Secret (`name`) and key in it (`key`) with what callers must show"),
    open=flag("true: without a key, whoever the network lets may ask"),
    host=flag("CPUs and memory as well (RAPL): runs as root and mounts the host's powercap, read-only"),
    runtimeClassName=text("brings NVML into a pod that asks for no GPU; empty where containers see all GPUs anyway"),
    nodeSelector=words("which nodes"),
    tolerations=several("which taints it is let by"),
    priorityClassName=text("of its pods"),
    from_=several(
        "peers that may reach it beside this release's proxies; with `hostPort` a node's address may be what is seen"
    ),
    serviceMonitor=flag(
        "have Prometheus scrape it, too, as the job `paceline-meter`: the proxy's own metrics tell the same joules. "
        "The operator looks for `meter.keySecret` in the ServiceMonitor's namespace"
    ),
    podAnnotations=words("of its pods"),
    podLabels=words("of its pods"),
    extraEnv=several("more environment variables"),
    resources=foreign("requests and limits; never a GPU, or it would take one away"),
)

VALUES: dict[str, Schema] = {
    "image": IMAGE,
    "nameOverride": text("instead of the chart's name"),
    "fullnameOverride": text("the whole name of all objects"),
    "rollOnConfigChange": flag(
        "replace the pods when `config` changes; false: the file changes within a minute, and `POST /reload` or SIGHUP reads it"
    ),
    "terminationMarginSeconds": whole("pods get `drain.linger_s + drain.grace_s` and so much more to end", 5),
    "replicas": whole("how many proxies; each has a queue and a policy of its own, so fewer hold better groups"),
    "autoscaling": table(
        "a HorizontalPodAutoscaler instead of `replicas`",
        enabled=flag("use it"),
        minReplicas=whole("at least"),
        maxReplicas=whole("at most"),
        targetCPUUtilizationPercentage=whole("of the CPU that is requested", 1, 1000),
        metrics=several("instead of that: `autoscaling/v2` metrics"),
        behavior=foreign("`autoscaling/v2` behavior"),
    ),
    "persistence": PERSISTENCE,
    "service": table(
        "of the data port",
        type={"enum": ["ClusterIP", "NodePort", "LoadBalancer"], "description": "`ClusterIP`, `NodePort` or `LoadBalancer`"},
        port=port("clients' port"),
        annotations=words("of the Service"),
        labels=words("of the Service"),
    ),
    "adminService": table(
        "of the admin port, always a `ClusterIP` of its own",
        port=port("its port"),
        annotations=words("of the Service"),
        labels=words("of the Service"),
    ),
    "serviceAccount": table(
        "it gets no token: Paceline does not speak to Kubernetes",
        create=flag("make one"),
        name=text("its name; not set: the release's"),
        annotations=words("of it"),
    ),
    "podDisruptionBudget": table(
        enabled=flag("make one"),
        maxUnavailable={"type": ["integer", "string"], "description": "pods that may be evicted at once: a number, or `50%`"},
    ),
    "networkPolicy": NETWORK_POLICY,
    "serviceMonitor": table(
        "needs the Prometheus operator's CRDs",
        enabled=flag("have the operator's Prometheus scrape the admin port as the job `paceline`"),
        namespace=text("not set: the release's"),
        labels=words("by which your Prometheus selects it, such as `release: kube-prometheus-stack`"),
        interval=text("seconds between scrapes", pattern="^[0-9]+(ms|s|m)$"),
        scrapeTimeout=text("longest scrape", pattern="^[0-9]+(ms|s|m)$"),
        tokenSecret=secret(
            'Secret with the admin token, where `config.admin.protect` is `"all"`; in the ServiceMonitor\'s namespace'
        ),
        tlsConfig=foreign("the operator's, where the admin port speaks TLS: `ca`, `serverName`, `insecureSkipVerify`"),
    ),
    "prometheusRule": table(
        "needs the Prometheus operator's CRDs",
        enabled=flag("recording rules and alerts"),
        namespace=text("not set: the release's"),
        labels=words("by which your Prometheus selects it"),
    ),
    "dashboards": table(
        "ConfigMaps for the sidecar of Grafana's chart",
        enabled=flag("make them"),
        namespace=text("not set: the release's"),
        label=text("by which the sidecar selects them"),
        labelValue=text("its value"),
        annotations=words("such as `grafana_folder`"),
    ),
    "otlp": table(
        endpoint=text("base URL of an OTLP receiver, http/protobuf: `http://otel-collector:4318`; empty: traces go nowhere"),
        metrics=flag("push metrics there, too"),
        sampler=text("`OTEL_TRACES_SAMPLER`, such as `parentbased_traceidratio`"),
        samplerArgument=text("`OTEL_TRACES_SAMPLER_ARG`, such as `0.1`"),
    ),
    "probes": table(
        "periods and thresholds; startup and liveness ask `/healthz`, readiness `/readyz` (a server has answered, no drain)",
        startup=PROBE,
        liveness=PROBE,
        readiness=PROBE,
    ),
    "resources": foreign("requests and limits; keep the memory limit above `config.queue.bytes` by some hundred MiB"),
    "podSecurityContext": foreign(
        "as shipped: user 10001, not root, `RuntimeDefault` seccomp; Secrets are read through `fsGroup`"
    ),
    "securityContext": foreign("as shipped: read-only root file system, no capabilities, no escalation"),
    "topologySpreadConstraints": several("not set: over nodes and over zones, as far as that can be"),
    "affinity": foreign("Kubernetes' own"),
    "nodeSelector": words("Kubernetes' own"),
    "tolerations": several("Kubernetes' own"),
    "priorityClassName": text("Kubernetes' own"),
    "podAnnotations": words("more annotations of the proxy's pods"),
    "podLabels": words("more labels of the proxy's pods"),
    "extraEnv": several("more environment variables; `PACELINE_…` ones go before `config`"),
    "extraEnvFrom": several("the same, whole ConfigMaps and Secrets"),
    "extraVolumes": several("more volumes"),
    "extraVolumeMounts": several("and where they are mounted: a profile, a carbon series, a socket"),
    "helmTest": table(enabled=flag("a pod for `helm test`, which asks both ports")),
    "meter": METER,
}
