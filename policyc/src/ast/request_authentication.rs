//! RequestAuthentication, security.istio.io v1 and v1beta1.

use super::{Attachment, DocumentId};

/// One RequestAuthentication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestAuthentication {
    pub document: DocumentId,
    /// Path of the object inside its document: empty, or `items[3]` within a List.
    pub object: crate::diagnostic::Path,
    pub namespace: String,
    pub name: String,
    pub attachment: Attachment,
    pub jwt_rules: Vec<JwtRule>,
}

/// `spec.jwtRules[]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct JwtRule {
    /// Must equal `iss`; empty accepts any issuer and needs `jwks_uri`.
    pub issuer: String,
    /// Empty: `aud` is not checked.
    pub audiences: Vec<String>,
    /// The key set as JSON text.
    pub jwks: Option<String>,
    pub jwks_uri: Option<String>,
    pub from_headers: Vec<JwtHeader>,
    pub from_params: Vec<String>,
    pub from_cookies: Vec<String>,
    pub output_payload_to_header: Option<String>,
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    pub forward_original_token: bool,
    /// Claims to be split on spaces, besides `scope` and `permission`, which always are.
    pub space_delimited_claims: Vec<String>,
    /// How long a fetch of `jwks_uri` may take, in milliseconds; default 5 000.
    pub timeout_ms: Option<u64>,
}

/// `fromHeaders[]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct JwtHeader {
    pub name: String,
    /// Text before the token, such as `Bearer `; case-sensitive.
    pub prefix: String,
}

/// `outputClaimToHeaders[]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClaimToHeader {
    pub header: String,
    pub claim: String,
}
