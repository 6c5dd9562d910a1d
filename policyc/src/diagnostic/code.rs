//! The closed set of documented codes. A new diagnostic starts here: add the variant, its code in
//! [`Code::as_str`] and its page in `pages`; the compiler asks for all three.

/// Documented codes; `policyc explain CODE` prints a code's page.
///
/// `P0xx` reading documents, `P1xx` validity of policies, `P2xx` the cluster and its mesh, `P3xx`
/// lints, `P4xx` lowering, `P5xx` bundles and tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Code {
    // Reading documents.
    CannotRead,
    NotUtf8,
    TooLarge,
    Syntax,
    DuplicateKey,
    MergeKey,
    TooDeep,
    NotAString,
    WrongType,
    UnknownField,
    NotAnObject,
    UnknownVersion,
    MissingField,
    DuplicateObject,
    Tag,
    NullField,
    BadName,
    // Validity of an AuthorizationPolicy.
    UnknownAction,
    SelectorAndTarget,
    SelectorLabel,
    EmptySelector,
    BadTargetRef,
    Provider,
    CustomAttribute,
    NoRules,
    EmptyRulePart,
    EmptyValue,
    BadIpBlock,
    BadPort,
    BadServiceAccount,
    MixedIdentity,
    BadTrustDomain,
    BadPathTemplate,
    ConditionKey,
    ConditionValues,
    TooMany,
    DryRun,
    HttpOnlyDeny,
    // Validity of a RequestAuthentication.
    JwtIssuer,
    JwksUri,
    Jwks,
    JwksTwice,
    JwtLocation,
    OutputClaim,
    JwtTimeout,
    JwksPrivate,
    // The cluster and its mesh.
    BadAddress,
    BadPortNumber,
    MeshValue,
    // Lints.
    NeverEffectiveAllow,
    RedundantRule,
    UnmatchedSelector,
    UnmatchedPrincipal,
    UnmatchedNamespace,
    UnmatchedServiceAccount,
    Contradiction,
    DenyHttpOnTcp,
    UndeclaredPort,
    ServicePort,
    HostNetwork,
    SourceRewritten,
    MeshOnPod,
    PeerAuthentication,
    HostWithoutPort,
    ExactPathDeny,
    OverBroadSuffix,
    TokensNotVerified,
    RootNamespace,
    ClosedPort,
    ProbesBlocked,
    StrayDash,
    ProtocolDisagreement,
    UnknownProvider,
    EmptyNamespace,
    AcceptedWarning,
    // Lowering.
    NotCompiled,
    NotServed,
    WiderInIstio,
    FilterMetadata,
}

/// Every code with its variant, sorted by code.
const CODES: &[(&str, Code)] = &[
    ("P001", Code::CannotRead),
    ("P002", Code::NotUtf8),
    ("P003", Code::TooLarge),
    ("P004", Code::Syntax),
    ("P005", Code::DuplicateKey),
    ("P006", Code::MergeKey),
    ("P007", Code::TooDeep),
    ("P008", Code::NotAString),
    ("P009", Code::WrongType),
    ("P010", Code::UnknownField),
    ("P011", Code::NotAnObject),
    ("P012", Code::UnknownVersion),
    ("P013", Code::MissingField),
    ("P014", Code::DuplicateObject),
    ("P015", Code::Tag),
    ("P016", Code::NullField),
    ("P017", Code::BadName),
    ("P101", Code::UnknownAction),
    ("P102", Code::SelectorAndTarget),
    ("P103", Code::SelectorLabel),
    ("P104", Code::EmptySelector),
    ("P105", Code::BadTargetRef),
    ("P106", Code::Provider),
    ("P107", Code::CustomAttribute),
    ("P108", Code::NoRules),
    ("P109", Code::EmptyRulePart),
    ("P110", Code::EmptyValue),
    ("P111", Code::BadIpBlock),
    ("P112", Code::BadPort),
    ("P113", Code::BadServiceAccount),
    ("P114", Code::MixedIdentity),
    ("P115", Code::BadTrustDomain),
    ("P116", Code::BadPathTemplate),
    ("P117", Code::ConditionKey),
    ("P118", Code::ConditionValues),
    ("P119", Code::TooMany),
    ("P120", Code::DryRun),
    ("P121", Code::HttpOnlyDeny),
    ("P131", Code::JwtIssuer),
    ("P132", Code::JwksUri),
    ("P133", Code::Jwks),
    ("P134", Code::JwksTwice),
    ("P135", Code::JwtLocation),
    ("P136", Code::OutputClaim),
    ("P137", Code::JwtTimeout),
    ("P138", Code::JwksPrivate),
    ("P201", Code::BadAddress),
    ("P202", Code::BadPortNumber),
    ("P203", Code::MeshValue),
    ("P301", Code::NeverEffectiveAllow),
    ("P302", Code::RedundantRule),
    ("P303", Code::UnmatchedSelector),
    ("P304", Code::UnmatchedPrincipal),
    ("P305", Code::UnmatchedNamespace),
    ("P306", Code::UnmatchedServiceAccount),
    ("P307", Code::Contradiction),
    ("P308", Code::DenyHttpOnTcp),
    ("P309", Code::UndeclaredPort),
    ("P310", Code::ServicePort),
    ("P311", Code::HostNetwork),
    ("P312", Code::SourceRewritten),
    ("P313", Code::MeshOnPod),
    ("P314", Code::PeerAuthentication),
    ("P315", Code::HostWithoutPort),
    ("P316", Code::ExactPathDeny),
    ("P317", Code::OverBroadSuffix),
    ("P318", Code::TokensNotVerified),
    ("P319", Code::RootNamespace),
    ("P320", Code::ClosedPort),
    ("P321", Code::ProbesBlocked),
    ("P322", Code::StrayDash),
    ("P323", Code::ProtocolDisagreement),
    ("P324", Code::UnknownProvider),
    ("P325", Code::EmptyNamespace),
    ("P326", Code::AcceptedWarning),
    ("P401", Code::NotCompiled),
    ("P402", Code::NotServed),
    ("P403", Code::WiderInIstio),
    ("P404", Code::FilterMetadata),
];

impl Code {
    /// The code as printed, such as `P005`.
    pub fn as_str(self) -> &'static str {
        CODES
            .iter()
            .find(|(_, code)| *code == self)
            .map_or("P000", |(text, _)| text)
    }

    /// The code of this text, in upper or lower case.
    pub fn parse(text: &str) -> Option<Self> {
        CODES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(text))
            .map(|(_, code)| *code)
    }

    /// All codes, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        CODES.iter().map(|(_, code)| *code)
    }

    /// Whether the problem is the last key of the path rather than the value behind it.
    pub fn is_about_key(self) -> bool {
        matches!(
            self,
            Self::DuplicateKey | Self::MergeKey | Self::UnknownField | Self::NullField
        )
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
