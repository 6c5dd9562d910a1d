//! How well the API server is followed, in words.

use std::fmt::{self, Write};

use crate::kube::{ClusterStatus, KindStatus};

pub(super) fn write(cluster: &ClusterStatus, out: &mut String) -> fmt::Result {
    let objects: usize = cluster.kinds.iter().map(|kind| kind.objects).sum();
    writeln!(
        out,
        "source   API server, policies from the {}: {objects} objects",
        cluster.policies
    )?;
    for kind in &cluster.kinds {
        self::kind(kind, out)?;
    }
    if let Some(compiled) = &cluster.compiled {
        writeln!(
            out,
            "compiled {} policies in {} us; {} times, {} of them failed",
            compiled.policies, compiled.took_us, compiled.times, compiled.failed
        )?;
        if compiled.errors_count > 0 {
            writeln!(
                out,
                "FAILING  {} errors: the policies before these stay in force",
                compiled.errors_count
            )?;
        }
        for line in compiled.errors.iter().chain(&compiled.notes) {
            writeln!(out, "         {line}")?;
        }
    }
    if cluster.wrong_objects > 0 {
        let count = cluster.wrong_objects;
        writeln!(out, "WRONG    {count} objects that cannot be read")?;
        for line in &cluster.wrong {
            writeln!(out, "         {line}")?;
        }
    }
    Ok(())
}

fn kind(kind: &KindStatus, out: &mut String) -> fmt::Result {
    let heard = match kind.heard_seconds {
        Some(seconds) => format!("heard {seconds} s ago"),
        None => "never heard of".into(),
    };
    let behind = match kind.behind_seconds {
        0 => String::new(),
        seconds => format!(", behind by {seconds} s"),
    };
    let (name, state, objects) = (&kind.kind, &kind.state, kind.objects);
    writeln!(
        out,
        "  {name:24} {state:8} {objects:>8} objects, {heard}{behind}"
    )?;
    match &kind.trouble {
        Some(trouble) => writeln!(out, "         {trouble}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::{Health, Kind};

    #[test]
    fn what_fails_is_named_with_its_age_and_its_cause() {
        let health = Health::new(true);
        health.watched(Kind::Pods);
        health.objects(Kind::Pods, 7);
        health.failing(Kind::Services, "no route to host".into());
        let mut out = String::new();
        write(&health.status(), &mut out).expect("text");
        assert!(
            out.contains("policies from the cluster: 7 objects"),
            "{out}"
        );
        assert!(
            out.contains("pods                     watched         7 objects"),
            "{out}"
        );
        assert!(
            out.contains("failing") && out.contains("no route to host"),
            "{out}"
        );
    }
}
