//! The account of a request as a person reads it.

use std::fmt;

use super::Explanation;
use crate::request::{Cause, Expected};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let j = &self.judgement;
        let verdict = match j.verdict {
            Expected::Allow => "allow",
            Expected::Deny => "deny",
        };
        write!(
            f,
            "{verdict}, decided in {}: {}",
            self.decided_in(),
            cause(j.reason)
        )?;
        if let Some(policy) = &j.policy {
            write!(f, " ({policy}")?;
            if let Some(rule) = j.rule {
                write!(f, " rule {rule}")?;
            }
            write!(f, ")")?;
        }
        writeln!(f)?;
        if let Some(trouble) = &self.trouble {
            writeln!(f, "  the request: {trouble}")?;
        }
        if let Some(nearest) = &self.nearest {
            writeln!(
                f,
                "  nearest ALLOW: {} rule {}\n    {}",
                nearest.policy, nearest.rule, nearest.failed
            )?;
        }

        let w = &self.walk;
        writeln!(f, "\nthe walk")?;
        writeln!(
            f,
            "  source       {} is of class {}",
            w.source, w.source_class
        )?;
        writeln!(
            f,
            "  destination  {} has the scope at word {}",
            w.destination, w.scope
        )?;
        writeln!(f, "  row          {} (class {})", w.row, w.source_class)?;
        writeln!(
            f,
            "  column       {} (port {}, {})",
            w.port_class, w.port, w.declared
        )?;
        writeln!(
            f,
            "  cell         {:#010x}: {}, record {}",
            w.cell, w.cell_verdict, w.record
        )?;

        if self.policies.is_empty() {
            return writeln!(f, "\nno policy applies to {}", w.destination);
        }
        writeln!(f, "\npolicies that apply to {}", w.destination)?;
        for policy in &self.policies {
            let dry_run = if policy.dry_run { ", dry run" } else { "" };
            writeln!(f, "  {} ({}{dry_run})", policy.policy, policy.action)?;
            if policy.rules.is_empty() {
                writeln!(f, "    no rules: it matches nothing")?;
            }
            for rule in &policy.rules {
                write!(
                    f,
                    "    rule {} at {}:{} ({}) ",
                    rule.rule, policy.file, rule.line, rule.lowered
                )?;
                match &rule.failed {
                    None => writeln!(f, "matches")?,
                    Some(failed) => writeln!(f, "does not match:\n      {failed}")?,
                }
                if let Some(note) = &rule.note {
                    writeln!(f, "      {note}")?;
                }
            }
        }
        for hit in &j.audit {
            writeln!(f, "audited by {} rule {}", hit.policy, hit.rule)?;
        }
        for hit in &j.dry_run {
            writeln!(
                f,
                "dry run: {} rule {} would {}",
                hit.policy, hit.rule, hit.action
            )?;
        }
        Ok(())
    }
}

/// The cause in words.
pub fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::BadRequest => "the request is malformed",
        Cause::CustomDenied => "the authorizer refused",
        Cause::CustomError => "the authorizer could not be asked",
        Cause::CustomUnresolved => "the authorizer cannot be resolved",
        Cause::JwtInvalid => "a token does not verify",
        Cause::JwtAudience => "a token is for another audience",
        Cause::DenyRule => "a DENY rule matches",
        Cause::DefaultDeny => "a catch-all DENY is the default, and no ALLOW rule matches",
        Cause::AllowRule => "an ALLOW rule matches",
        Cause::NoAllowMatched => "ALLOW policies apply, and no rule of theirs matches",
        Cause::NoAllowPolicy => "no ALLOW policy applies",
    }
}
