//! An agent that is not privileged: it has the capabilities of the README's table and no other, makes
//! no mount that outlives it, and may only read `/proc/sys`. What takes more than that,
//! `enforcer prepare` has done before.

use enforcer::rights::CAPABILITIES;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount_bind_recursive, mount_change, mount_remount},
    thread::{CapabilitySet, UnshareFlags, remove_capability_from_bounding_set},
};

use super::*;

/// Runs `work` as a container without `privileged` does: on a thread whose processes have the listed
/// capabilities at most, in a mount namespace that takes mounts from the node and gives it none.
fn unprivileged<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            leave_the_mounts();
            for bit in 0..64 {
                if CAPABILITIES.iter().any(|capability| capability.bit == bit) {
                    continue;
                }
                match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit))
                {
                    Ok(()) => {}
                    // Beyond the last one that this kernel has.
                    Err(rustix::io::Errno::INVAL) => break,
                    Err(error) => panic!("capability {bit} stays: {error}"),
                }
            }
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[expect(unsafe_code, reason = "unshare is unsafe for threads that share files")]
fn leave_the_mounts() {
    // SAFETY: NEWNS takes the file table of no thread along, and this one is of the test's own making.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.expect("a mount namespace");
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave).expect("mounts of its own");
    mount_bind_recursive("/proc/sys", "/proc/sys").expect("a mount to be changed");
    let read_only = MountFlags::BIND | MountFlags::RDONLY;
    mount_remount("/proc/sys", read_only, "").expect("/proc/sys can be made read-only");
}

fn prepare(world: &World) -> String {
    let mut command = Command::new(ENFORCER);
    command
        .arg("prepare")
        .arg("--bpffs")
        .arg(world.home.bpffs())
        .args(["--netns", world.home.netns()]);
    let output = world.net.node.output(&mut command);
    output.expect("a privileged step")
}

#[track_caller]
fn start_unprivileged(world: &World, bundle: &Path) -> Agent {
    let started = unprivileged(|| world.home.start(&world.net.node, bundle, &[]));
    started.expect("its capabilities are enough")
}

#[test]
fn an_agent_with_its_capabilities_alone_enforces_judges_requests_and_restarts() {
    if !possible() {
        return;
    }
    let world = World::new("lv-caps");
    serve_http(world.pod("backend"), PORT + 1);
    let made = prepare(&world);
    assert!(
        made.contains("namespace") && made.contains(": made"),
        "{made}"
    );
    let again = prepare(&world);
    assert!(!again.contains(": made"), "it is there: {again}");
    let bundle = world.bundle("first.bin", ONLY_GET);
    for round in ["at first", "taking over"] {
        let agent = start_unprivileged(&world, &bundle);
        let status =
            fs::read_to_string(format!("/proc/{}/status", agent.id())).expect("the process runs");
        let granted = CAPABILITIES.iter().fold(0u64, |all, c| all | 1 << c.bit);
        assert!(
            status.contains(&format!("CapEff:\t{granted:016x}\n")),
            "it has what the table says and nothing else: {status}"
        );
        assert!(
            request(&world, "frontend", "GET /a").starts_with("HTTP/1.1 200"),
            "{round}: a GET of frontend's is allowed\n{}",
            agent.log()
        );
        assert_eq!(
            request(&world, "frontend", "POST /a"),
            "HTTP/1.1 403 Forbidden",
            "{round}: no rule allows a POST"
        );
        world.expect("other", Met::Refusal, "no rule allows its principal");
        // The proxy binds a client's port below 1024 on the pod's behalf.
        let low = low_http(&world);
        assert!(
            low.starts_with("HTTP/1.1 200"),
            "{round}: {low}\n{}",
            agent.log()
        );
        assert!(
            !agent.log().contains("ERROR"),
            "nothing is beyond its rights:\n{}",
            agent.log()
        );
        agent.kill().expect("our own process");
        world.expect("other", Met::Refusal, "enforcement outlives the agent");
        let again = prepare(&world);
        assert!(
            !again.contains(": made"),
            "an update finds it there: {again}"
        );
        world.expect("other", Met::Refusal, "and changes nothing of it");
    }
    let detached = world.home.detach(&world.net.node);
    detached.expect("a privileged step takes all away");
    assert_nothing_left(&world);
    world.expect("other", Met::Answer, "nothing is enforced any more");
}

#[test]
fn without_its_preparation_such_an_agent_says_what_to_run_and_leaves_nothing() {
    if !possible() {
        return;
    }
    let world = World::new("lv-unprep");
    let bundle = world.bundle("first.bin", ONLY_FRONTEND);
    let mut agent = unprivileged(|| world.home.spawn(&world.net.node, &bundle, &[]))
        .expect("the program is there");
    assert!(agent.ends_within(LATE), "it cannot start");
    assert!(
        agent.log().contains("enforcer prepare"),
        "it says what is missing: {}",
        agent.log()
    );
    let pins = world.home.pins();
    assert!(!pins.exists(), "pins are left: {}", pins.display());
    let links = links(&world);
    assert!(!links.contains("enf-"), "an interface is left:\n{links}");
    world.expect("other", Met::Answer, "nothing is enforced");
}

#[test]
fn a_detach_that_stays_does_so_until_it_is_told_to_end() {
    if !possible() {
        return;
    }
    let world = World::new("lv-stay");
    let mut agent = world.start(NOBODY, &[]);
    world.expect("frontend", Met::Refusal, "nobody may");
    let mut command = Command::new(ENFORCER);
    command
        .args(["detach", "--stay", "--netns", world.home.netns()])
        .arg("--bpffs")
        .arg(world.home.bpffs())
        .arg("--socket")
        .arg(world.home.file("socket"));
    let mut staying = world
        .net
        .node
        .process(&mut command)
        .expect("the program is there");
    assert!(agent.ends_within(PATIENCE), "the agent is told to detach");
    let done = until(PATIENCE, || !world.home.pins().exists());
    assert!(done, "all is taken away");
    world.expect("frontend", Met::Answer, "nothing is enforced any more");
    assert!(
        staying.ended().expect("our own process").is_none(),
        "it stays"
    );
    let id = i32::try_from(staying.id()).expect("process ids are positive");
    let id = rustix::process::Pid::from_raw(id).expect("process ids are not 0");
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("our own process");
    let ended = until(PATIENCE, || {
        staying.ended().is_ok_and(|ended| ended.is_some())
    });
    assert!(ended, "it ends when it is told to");
    let status = staying.ended().expect("our own process").expect("it ended");
    assert!(status.success(), "and is content: {status}");
    assert_nothing_left(&world);
}

/// A GET from a port below 1024 of the client's.
fn low_http(world: &World) -> String {
    use std::io::{Read, Write};
    let address = world.pod("backend").v4.into();
    let mut stream = restart::connect_by(777, world.pod("frontend"), address, PORT + 1)
        .expect("a pod may call from any port");
    stream
        .write_all(b"GET /a HTTP/1.1\r\nHost: backend\r\nConnection: close\r\n\r\n")
        .expect("the connection stands");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the answer is text");
    answer.lines().next().unwrap_or_default().to_owned()
}
