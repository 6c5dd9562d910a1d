//! MeshConfig: the fields that change the meaning of policies. The others must at least exist.

use super::{ExtAuthz, ExtensionProvider, Mesh, PathNormalization, ProviderKind};
use crate::{
    diagnostic::Code,
    read::{
        duration,
        node::{Node, Reader},
    },
};

/// Fields of Istio's MeshConfig, used here or not.
const FIELDS: &[&str] = &[
    "accessLogEncoding",
    "accessLogFile",
    "accessLogFormat",
    "ca",
    "caCertificates",
    "certificates",
    "configSources",
    "connectTimeout",
    "defaultConfig",
    "defaultDestinationRuleExportTo",
    "defaultHttpRetryPolicy",
    "defaultProviders",
    "defaultServiceExportTo",
    "defaultVirtualServiceExportTo",
    "disableEnvoyListenerLog",
    "discoverySelectors",
    "dnsRefreshRate",
    "enableAutoMtls",
    "enableEnvoyAccessLogService",
    "enablePrometheusMerge",
    "enableTracing",
    "extensionProviders",
    "h2UpgradePolicy",
    "inboundClusterStatName",
    "inboundTrafficPolicy",
    "ingressClass",
    "ingressControllerMode",
    "ingressSelector",
    "ingressService",
    "localityLbSetting",
    "meshMTLS",
    "outboundClusterStatName",
    "outboundTrafficPolicy",
    "pathNormalization",
    "proxyHttpPort",
    "proxyInboundListenPort",
    "proxyListenPort",
    "rootNamespace",
    "serviceScopeConfigs",
    "serviceSettings",
    "tcpKeepalive",
    "thriftConfig",
    "tlsDefaults",
    "trustDomain",
    "trustDomainAliases",
    "verifyCertificateAtClient",
];

/// Kinds of extension providers.
const PROVIDERS: &[&str] = &[
    "name",
    "datadog",
    "envoyExtAuthzGrpc",
    "envoyExtAuthzHttp",
    "envoyFileAccessLog",
    "envoyHttpAls",
    "envoyOtelAls",
    "envoyTcpAls",
    "lightstep",
    "opencensus",
    "opentelemetry",
    "prometheus",
    "sds",
    "skywalking",
    "stackdriver",
    "zipkin",
];

const EXT_AUTHZ: &[&str] = &[
    "service",
    "port",
    "timeout",
    "failOpen",
    "statusOnError",
    "clearRouteCache",
    "includeRequestBodyInCheck",
];

const EXT_AUTHZ_HTTP: &[&str] = &[
    "service",
    "port",
    "timeout",
    "failOpen",
    "statusOnError",
    "clearRouteCache",
    "includeRequestBodyInCheck",
    "pathPrefix",
    "includeHeadersInCheck",
    "includeRequestHeadersInCheck",
    "includeAdditionalHeadersInCheck",
    "headersToUpstreamOnAllow",
    "headersToDownstreamOnDeny",
    "headersToDownstreamOnAllow",
];

/// Reads a MeshConfig; what is absent has Istio's default.
pub(crate) fn read(reader: &mut Reader<'_>, config: &Node<'_>) -> Option<Mesh> {
    reader.map(config)?;
    reader.only_keys(config, "the MeshConfig", FIELDS);
    let mut mesh = Mesh::default();
    if let Some(domain) = reader.field(config, "trustDomain", Reader::string)
        && !domain.is_empty()
    {
        mesh.trust_domain = domain;
    }
    if let Some(aliases) = reader.field(config, "trustDomainAliases", Reader::strings) {
        mesh.trust_domain_aliases = aliases;
    }
    if let Some(namespace) = reader.field(config, "rootNamespace", Reader::string)
        && !namespace.is_empty()
    {
        mesh.root_namespace = namespace;
    }
    if let Some(setting) = config.get("pathNormalization") {
        reader.only_keys(&setting, "`pathNormalization`", &["normalization"]);
        if let Some(mode) = reader.field(&setting, "normalization", normalization) {
            mesh.path_normalization = mode;
        }
    }
    if let Some(defaults) = config.get("defaultConfig")
        && let Some(topology) = defaults.get("gatewayTopology")
        && let Some(proxies) = reader.field(&topology, "numTrustedProxies", Reader::integer)
    {
        mesh.trusted_proxies = proxies;
    }
    if let Some(providers) = config.get("extensionProviders") {
        reader.list(&providers)?;
        for node in providers.items() {
            mesh.extension_providers.extend(provider(reader, &node));
        }
    }
    Some(mesh)
}

fn normalization(reader: &mut Reader<'_>, node: &Node<'_>) -> Option<PathNormalization> {
    let text = reader.string(node)?;
    // ISTIO: "DEFAULT: Apply default normalizations. Currently, this is BASE."
    let mode = match text.as_str() {
        "DEFAULT" | "BASE" => PathNormalization::Base,
        "NONE" => PathNormalization::None,
        "MERGE_SLASHES" => PathNormalization::MergeSlashes,
        "DECODE_AND_MERGE_SLASHES" => PathNormalization::DecodeAndMergeSlashes,
        _ => {
            reader.error(
                Code::MeshValue,
                node,
                format!("no path normalization is called `{text}`"),
                "write one of DEFAULT, NONE, BASE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES",
            );
            return None;
        }
    };
    Some(mode)
}

fn provider(reader: &mut Reader<'_>, node: &Node<'_>) -> Option<ExtensionProvider> {
    reader.map(node)?;
    reader.only_keys(node, "an extension provider", PROVIDERS);
    let name = reader.field(node, "name", Reader::string);
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        reader.error(
            Code::MeshValue,
            node,
            "the extension provider has no name".into(),
            "give it the name that CUSTOM policies use",
        );
        return None;
    };
    let kind = if let Some(http) = node.get("envoyExtAuthzHttp") {
        reader.only_keys(&http, "`envoyExtAuthzHttp`", EXT_AUTHZ_HTTP);
        ProviderKind::ExtAuthzHttp(ext_authz(reader, &http)?)
    } else if let Some(grpc) = node.get("envoyExtAuthzGrpc") {
        reader.only_keys(&grpc, "`envoyExtAuthzGrpc`", EXT_AUTHZ);
        ProviderKind::ExtAuthzGrpc(ext_authz(reader, &grpc)?)
    } else {
        ProviderKind::Other
    };
    Some(ExtensionProvider { name, kind })
}

fn ext_authz(reader: &mut Reader<'_>, node: &Node<'_>) -> Option<ExtAuthz> {
    reader.map(node)?;
    for required in ["service", "port"] {
        if node.get(required).is_none() {
            reader.error(
                Code::MissingField,
                node,
                format!("`{}` has no `{required}`", node.name()),
                "say where the authorizer listens",
            );
        }
    }
    let mut headers = |key: &str| {
        let list = reader.field(node, key, Reader::strings);
        list.unwrap_or_default()
    };
    // The field had a shorter name once.
    let mut in_check = headers("includeRequestHeadersInCheck");
    in_check.extend(headers("includeHeadersInCheck"));
    let mut authz = ExtAuthz {
        include_request_headers_in_check: in_check,
        headers_to_upstream_on_allow: headers("headersToUpstreamOnAllow"),
        headers_to_downstream_on_deny: headers("headersToDownstreamOnDeny"),
        headers_to_downstream_on_allow: headers("headersToDownstreamOnAllow"),
        service: reader.field(node, "service", Reader::string)?,
        port: reader.field(node, "port", Reader::integer)?,
        timeout_ms: reader.field(node, "timeout", |r, n| duration(r, n, Code::MeshValue)),
        fail_open: reader
            .field(node, "failOpen", Reader::boolean)
            .unwrap_or(false),
        status_on_error: reader.field(node, "statusOnError", status),
        path_prefix: reader
            .field(node, "pathPrefix", Reader::string)
            .unwrap_or_default(),
        ..ExtAuthz::default()
    };
    let additional = reader.field(node, "includeAdditionalHeadersInCheck", Reader::string_map);
    authz.include_additional_headers_in_check = additional.unwrap_or_default();
    if let Some(body) = node.get("includeRequestBodyInCheck") {
        let known = ["maxRequestBytes", "allowPartialMessage", "packAsBytes"];
        reader.only_keys(&body, "`includeRequestBodyInCheck`", &known);
        authz.max_request_bytes = reader.field(&body, "maxRequestBytes", Reader::integer);
        authz.allow_partial_message = reader
            .field(&body, "allowPartialMessage", Reader::boolean)
            .unwrap_or(false);
        authz.pack_as_bytes = reader
            .field(&body, "packAsBytes", Reader::boolean)
            .unwrap_or(false);
    }
    Some(authz)
}

/// An HTTP status, which Istio has as a string.
fn status(reader: &mut Reader<'_>, node: &Node<'_>) -> Option<u16> {
    let text = reader.string(node)?;
    let status = text.parse().ok().filter(|code| (200..600).contains(code));
    if status.is_none() {
        reader.error(
            Code::MeshValue,
            node,
            format!("`{text}` is not an HTTP status"),
            "write a number such as \"503\"",
        );
    }
    status
}
