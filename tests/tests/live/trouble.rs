//! When the node itself is in trouble: no BPF file system, a full disk, a file system that cannot be
//! written, no memory. What is wrong is said, and what was enforced stays enforced.

use std::os::unix::fs::PermissionsExt;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;

/// A file system in memory, which goes away with its owner.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(at: PathBuf, flags: MountFlags) -> Self {
        fs::create_dir_all(&at).expect("a folder of its own");
        let options = c"size=64k";
        mount("tmpfs", &at, "tmpfs", flags, Some(options)).expect("root may mount");
        Self(at)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{} is left mounted: {error}", self.0.display());
        }
    }
}

/// Starts an agent that must not stay. Returns what it said.
#[track_caller]
fn refused(world: &World, mut agent: Agent) -> String {
    assert!(agent.ends_within(LATE), "it must not stay: {}", agent.log());
    world.expect("frontend", Met::Answer, "the old policy is in force");
    world.expect("other", Met::Refusal, "the old policy is in force");
    agent.log()
}

#[test]
fn without_a_bpf_file_system_or_a_place_to_write_the_old_policy_stays() {
    if !possible() {
        return;
    }
    let world = World::new("lv-places");
    let agent = world.start(ONLY_FRONTEND, &[]);
    agent.kill().expect("our own process");
    let nobody = world.bundle("nobody.bin", NOBODY);
    let node = &world.net.node;
    let plain = world.home.file("plain");
    fs::create_dir(&plain).expect("a folder of its own");
    let socket = world.home.file("socket");
    let spawned = world.home.spawn_in(&plain, &socket, node, &nobody, &[]);
    let said = refused(&world, spawned.expect("the program is there"));
    assert!(said.contains("is not on a BPF file system"), "{said}");
    assert!(said.contains("mount -t bpf"), "with the fix: {said}");

    let _read_only = Tmpfs::new(world.home.file("ro"), MountFlags::RDONLY);
    let socket = world.home.file("ro").join("run").join("socket");
    let spawned = world.home.spawn_at(&socket, node, &nobody, &[]);
    let said = refused(&world, spawned.expect("the program is there"));
    assert!(said.contains("Read-only file system"), "{said}");
    assert!(said.contains("control socket"), "{said}");

    // State is a convenience: without it everything is enforced, and that is said.
    let state = world.home.file("ro").join("state");
    let state = state.to_str().expect("plain text");
    let started = world.home.start(node, &nobody, &["--state-dir", state]);
    let _agent = started.expect("nothing that is enforced depends on it");
    world.expect("frontend", Met::Refusal, "the new policy is in force");
    let status = world.home.status().expect("the agent answers");
    let trouble = status["state"]["trouble"].as_str().unwrap_or_default();
    assert!(trouble.contains("Read-only file system"), "{trouble}");
}

#[test]
fn on_a_full_disk_policies_change_and_what_could_not_be_kept_is_said() {
    if !possible() {
        return;
    }
    let world = World::new("lv-full");
    let disk = Tmpfs::new(world.home.file("disk"), MountFlags::empty());
    let filler = disk.0.join("filler");
    let filled = fs::write(&filler, vec![0u8; 1 << 20]);
    assert!(filled.is_err(), "the disk is small");
    let state = disk.0.join("state");
    let state = state.to_str().expect("plain text");
    let _agent = world.start(ONLY_FRONTEND, &["--state-dir", state]);
    let nobody = world.bundle("nobody.bin", NOBODY);
    world.home.load(&nobody).expect("a good bundle");
    world.expect("frontend", Met::Refusal, "the new policy is in force");
    let trouble = || {
        let status = world.home.status().expect("the agent answers");
        status["state"]["trouble"].as_str().map(str::to_owned)
    };
    let said = trouble().unwrap_or_default();
    assert!(said.contains("No space left"), "{said}");
    // The bundle to go back to was not kept: that changes nothing, and is said.
    let back = world.home.call(&["rollback"]).expect("it is there");
    assert!(!back.status.success());
    let said = String::from_utf8_lossy(&back.stderr).into_owned();
    assert!(said.contains("cannot read bundle"), "{said}");
    world.expect("frontend", Met::Refusal, "the policy is still in force");
    fs::remove_file(&filler).expect("a file of its own");
    let first = world.home.file("first.bin");
    world.home.load(&first).expect("a good bundle");
    assert_eq!(trouble(), None, "there is room again");
}

#[test]
fn without_memory_for_a_table_the_old_one_stays() {
    if !possible() {
        return;
    }
    let mut world = World::new("lv-memory");
    let agent = world.start(ONLY_FRONTEND, &[]);
    let many: String = (0..60)
        .map(|n| format!("{NOBODY}  action: DENY\n  rules:\n  - to: [{{operation: {{ports: [\"{}\"]}}}}]\n    from: [{{source: {{ipBlocks: [10.{n}.{n}.{n}]}}}}]\n---\n", 100 + n).replace("name: nobody", &format!("name: many-{n}")))
        .collect();
    let many = world.bundle("many.bin", many.trim_end_matches("---\n"));
    let status = world.home.status().expect("the agent answers");
    let words = status["table"]["words"].as_u64().expect("a number");
    agent.kill().expect("our own process");
    // Little more than the first table takes.
    let capacity = (words + 16).to_string();
    world
        .home
        .detach(&world.net.node)
        .expect("without an agent");
    let first = world.home.file("first.bin");
    let started = world
        .home
        .start(&world.net.node, &first, &["--capacity", &capacity]);
    let agent = started.expect("the first bundle fits");
    let error = world.home.load(&many).expect_err("too large").to_string();
    assert!(error.contains("raise the table's capacity"), "{error}");
    world.expect("frontend", Met::Answer, "the old table is in force");
    world.expect("other", Met::Refusal, "the old table is in force");
    agent.kill().expect("our own process");

    let Some(group) = MemoryGroup::new(&world, 48 << 20) else {
        return;
    };
    let wrapper = world.home.file("within-memory");
    let script = format!(
        "#!/bin/sh\necho $$ > {}/cgroup.procs && exec {ENFORCER} \"$@\"\n",
        group.0.display()
    );
    fs::write(&wrapper, script).expect("a file of its own");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("our own file");
    let wrapper = wrapper.to_str().expect("plain text").to_owned();
    let whole = world.home.replace_program(&wrapper);
    let spawned = world
        .home
        .spawn(&world.net.node, &first, &["--capacity", "16777216"]);
    let mut agent = spawned.expect("the program is there");
    assert!(agent.ends_within(LATE), "it must not stay");
    world.home.replace_program(&whole);
    let said = agent.log();
    assert!(said.contains("cannot make a table"), "{said}");
    assert!(said.contains("Cannot allocate memory"), "{said}");
    world.expect("frontend", Met::Answer, "the old table is in force");
    world.expect("other", Met::Refusal, "the old table is in force");
    let started = world.home.start(&world.net.node, &first, &[]);
    let _agent = started.expect("what the failed one has left is no hindrance");
}

/// A group of processes that may use so much memory, the kernel's on their behalf included.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(world: &World, bytes: u64) -> Option<Self> {
        let name = world.net.node.name();
        for (root, limit) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let group = Path::new(root).join(name);
            if !Path::new(root).join("cgroup.procs").exists() || fs::create_dir(&group).is_err() {
                continue;
            }
            let group = Self(group);
            if fs::write(group.0.join(limit), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        tests::ready::skipped("no control group limits memory here");
        None
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}

#[test]
fn pins_of_another_version_are_taken_away_when_the_new_programs_enforce() {
    if !possible() {
        return;
    }
    let world = World::new("lv-versions");
    // As an agent of another version would have left them; each links a program of ours.
    let agent = world.start(NOBODY, &[]);
    agent.kill().expect("our own process");
    let family = world.home.pins();
    fs::rename(family.join("v1"), family.join("v0")).unwrap_or_else(|_| {
        // A BPF file system may not rename folders: its files, then.
        for kind in ["maps", "links"] {
            fs::create_dir_all(family.join("v0").join(kind)).expect("a folder");
            for file in fs::read_dir(family.join("v1").join(kind)).expect("pins") {
                let name = file.expect("a pin").file_name();
                let from = family.join("v1").join(kind).join(&name);
                fs::rename(from, family.join("v0").join(kind).join(&name)).expect("a pin");
            }
        }
    });
    world.expect("frontend", Met::Refusal, "the other version enforces");
    let started = world.home.start(
        &world.net.node,
        &world.bundle("new.bin", ONLY_FRONTEND),
        &[],
    );
    let agent = started.expect("it begins beside the other");
    assert!(!family.join("v0").exists(), "{}", agent.log());
    // The kernel takes links off a moment after their last name is gone.
    let v4 = world.backend()[0];
    let alone = until(PATIENCE, || {
        try_once(world.pod("frontend"), v4, PORT, PATIENCE) == Met::Answer
    });
    assert!(alone, "the new version enforces alone");
    world.expect("other", Met::Refusal, "the new version enforces");
    world.home.detach(&world.net.node).expect("with an agent");
    world.expect("other", Met::Answer, "nothing is left");
}
