//! The kernel's side of the library's traits.

pub mod ending;
pub mod flows;
pub mod frame;
pub mod globals;
pub mod maps;
pub mod report;
pub mod run;
pub mod table;
