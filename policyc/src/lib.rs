//! Compiles Istio AuthorizationPolicy to one flat decision table.
//!
//! Read in the order in which data flows: `read` (bytes to documents), [`ast`] (policies as
//! written), [`cluster`] (the world they speak about), `resolve` and `ir` (numbers), `lower`
//! (cells), `link` (words for one node), `bundle` (bytes), `l7` (requests). [`oracle`] is the same
//! meaning written naively, for comparison.
#![forbid(unsafe_code)]

pub mod ast;
pub mod attach;
pub mod bundle;
pub mod capacity;
pub mod clock;
pub mod cluster;
pub mod compare;
pub mod compile;
pub mod conformance;
pub mod diagnostic;
pub mod diff;
pub mod engine;
pub mod expect;
pub mod explain;
pub mod graph;
pub mod headers;
pub mod inspect;
pub mod inventory;
pub mod ir;
pub mod l7;
pub mod link;
pub mod lint;
pub mod lower;
pub mod options;
pub mod oracle;
pub mod read;
pub mod replay;
pub mod report;
pub mod request;
pub mod resolve;
pub mod sign;
pub mod suggest;
mod token_json;
pub mod verify;
