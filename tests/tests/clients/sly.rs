//! Clients that mean harm, in HTTP/2: frames that are none, windows that overflow, heads without an end,
//! streams that are given up as soon as they are opened. Each loses its connection or is answered; the
//! agent holds no more than before, and others are served.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::Ordering,
};

use tests::live::traffic::connect;

use super::{DECLARED_HTTP, HTTP, ONLY_OK, PATIENCE, World, has, until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The agent may grow by this, in KiB, whatever is sent.
const GROWTH_MAX: u64 = 32 << 10;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header field as it is, in no table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let [name_length, value_length] =
        [name.len(), value.len()].map(|l| u8::try_from(l).expect("a short one"));
    assert!(
        name_length < 127 && value_length < 127,
        "one byte of length"
    );
    [
        &[0, name_length],
        name.as_bytes(),
        &[value_length],
        value.as_bytes(),
    ]
    .concat()
}

fn request(path: &str) -> Vec<u8> {
    [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "b"),
    ]
    .map(|(name, value)| field(name, value))
    .concat()
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &request("/ok"))
}

/// Ids of a client's streams.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

fn memory(world: &World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.agent.id()));
    let status = status.expect("the agent runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim_matches([' ', '\t', 'k', 'B']).parse().ok());
    number.expect("the kernel tells")
}

/// What the agent has done with a connection.
#[derive(PartialEq, Eq, Debug)]
enum End {
    /// It has said GOAWAY with that code, and ended it.
    Away(u32),
    /// It has ended it without a word.
    Silent,
}

/// Sends bytes on a connection of its own and reads to the end.
fn send(world: &World, bytes: impl Iterator<Item = Vec<u8>> + Send) -> End {
    let frontend = world.net.get("frontend");
    let stream = connect(frontend, world.backend()[0], DECLARED_HTTP + HTTP, PATIENCE);
    let mut stream = stream.expect("the proxy accepts");
    let mut writer = stream.try_clone().expect("a second handle");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let hello = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
            // Whoever ends it does not take the rest.
            let mut taken = writer.write_all(&hello).is_ok();
            for part in bytes {
                taken = taken && writer.write_all(&part).is_ok();
                if !taken {
                    return;
                }
            }
        });
        read_to_end(&mut stream)
    })
}

fn read_to_end(stream: &mut TcpStream) -> End {
    let mut end = End::Silent;
    loop {
        let mut head = [0; 9];
        if let Err(error) = stream.read_exact(&mut head) {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "it is not ended"
            );
            return end;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("a frame")];
        if stream.read_exact(&mut payload).is_err() {
            return end;
        }
        if head[3] == GOAWAY {
            let code = payload[4..8].try_into().expect("four bytes");
            end = End::Away(u32::from_be_bytes(code));
        }
    }
}

#[track_caller]
fn assert_others_are_served(world: &World, what: &str) {
    let url = format!("{}/ok", world.url(DECLARED_HTTP + HTTP));
    let ask = [
        "-s",
        "--http2-prior-knowledge",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &url,
    ];
    assert_eq!(world.client("curl", &ask).out, "200", "after {what}");
}

#[test]
fn frames_that_are_none_end_their_connection_alone() {
    if !has("curl") {
        return;
    }
    let world = World::new("cl-frames", ONLY_OK);
    let before = memory(&world);
    let most = 0x7fff_ffff_u32.to_be_bytes();
    let cases: [(&str, Vec<u8>, &[u32]); 8] = [
        // Codes: 1 protocol, 3 flow control, 6 frame size, 9 compression.
        (
            "a frame larger than may be",
            frame(DATA, 0, 1, &vec![0; 1 << 20]),
            &[1, 6],
        ),
        (
            "data on a stream that is none",
            frame(DATA, 0, 1, b"x"),
            &[1, 5],
        ),
        ("a stream with an even number", get(2), &[1]),
        (
            "a window beyond its end",
            frame(WINDOW_UPDATE, 0, 0, &most).repeat(2),
            &[3],
        ),
        (
            "settings of a wrong length",
            frame(SETTINGS, 0, 0, b"12345"),
            &[1, 6],
        ),
        (
            "a head that is no HPACK",
            frame(HEADERS, 5, 1, &[0xff; 40]),
            &[1, 9],
        ),
        (
            "a head within another",
            [frame(HEADERS, 0, 1, &request("/ok")), get(3)].concat(),
            &[1],
        ),
        ("a PING of a wrong length", frame(PING, 0, 0, b"1"), &[1, 6]),
    ];
    for (what, bytes, codes) in cases {
        let end = send(&world, std::iter::once(bytes));
        let fits = matches!(&end, End::Away(code) if codes.contains(code));
        assert!(fits, "{what}: {end:?}");
        assert_others_are_served(&world, what);
    }
    let after = memory(&world);
    assert!(
        after < before + GROWTH_MAX,
        "{before} KiB became {after} KiB"
    );
}

#[test]
fn floods_end_and_nothing_of_them_stays() {
    if !has("curl") {
        return;
    }
    let world = World::new("cl-floods", ONLY_OK);
    let seen = &world.servers[0].seen.requests;
    let before = memory(&world);
    let many = 20_000;
    // A head that goes on and on.
    let endless = || {
        let begin = frame(HEADERS, 0, 1, &request("/ok"));
        let more = (0..many).map(|n| {
            frame(
                CONTINUATION,
                0,
                1,
                &field(&format!("x-{n}"), &"v".repeat(100)),
            )
        });
        std::iter::once(begin).chain(more)
    };
    // The same, in frames without a byte.
    let empty = || {
        let begin = frame(HEADERS, 0, 1, &request("/ok"));
        std::iter::once(begin).chain((0..many).map(|_| frame(CONTINUATION, 0, 1, b"")))
    };
    let rapid = || {
        streams(many).map(|id| [get(id), frame(RST_STREAM, 0, id, &8u32.to_be_bytes())].concat())
    };
    // Each is wrong by itself, and the agent would have to say so each time.
    let wrong = || streams(many).map(|id| [get(id), frame(WINDOW_UPDATE, 0, id, &[0; 4])].concat());
    type Bytes = Box<dyn Iterator<Item = Vec<u8>> + Send>;
    let floods: [(&str, Bytes); 4] = [
        ("a head without an end", Box::new(endless())),
        ("a head that goes on with nothing", Box::new(empty())),
        ("streams given up at once", Box::new(rapid())),
        ("streams that are wrong", Box::new(wrong())),
    ];
    for (what, bytes) in floods {
        let asked = seen.load(Ordering::SeqCst);
        let end = send(&world, bytes);
        assert!(matches!(end, End::Away(_)), "{what}: {end:?}");
        let asked = seen.load(Ordering::SeqCst) - asked;
        assert!(asked < 2_000, "{what}: the pod was asked {asked} times");
        assert_others_are_served(&world, what);
        let after = memory(&world);
        println!("{what}: {end:?}, the pod asked {asked} times, {before} KiB became {after} KiB");
        assert!(
            after < before + GROWTH_MAX,
            "{what}: {before} KiB became {after} KiB"
        );
    }
}

/// An entry of the table of headers, named again and again: few bytes, a large head.
#[test]
fn a_head_that_unpacks_to_more_than_may_be_is_refused() {
    if !has("curl") {
        return;
    }
    let world = World::new("cl-bomb", ONLY_OK);
    let seen = &world.servers[0].seen.requests;
    let before = memory(&world);
    // Literal with indexing, name and value new, 100 bytes; then the newest entry 10 000 times.
    let entry = [&[0x40, 3], &b"x-b"[..], &[100], &[b'v'; 100]].concat();
    let bomb = [request("/ok"), entry, vec![0x80 | 62; 10_000]].concat();
    let head = frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb);
    let frontend = world.net.get("frontend");
    let stream = connect(frontend, world.backend()[0], DECLARED_HTTP + HTTP, PATIENCE);
    let mut stream = stream.expect("the proxy accepts");
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, b""), &head].concat();
    stream.write_all(&hello).expect("it stands");
    // 431 or a reset of the stream; the connection may live on.
    let answered = loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            break "ended";
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("a frame")];
        stream.read_exact(&mut payload).expect("whole frames");
        match head[3] {
            HEADERS | RST_STREAM | GOAWAY => break "answered",
            _ => {}
        }
    };
    println!("{answered}");
    assert_eq!(
        seen.load(Ordering::SeqCst),
        0,
        "it does not come to the pod"
    );
    assert_others_are_served(&world, "a bomb");
    let after = memory(&world);
    assert!(
        after < before + GROWTH_MAX,
        "{before} KiB became {after} KiB"
    );
}

/// Two hundred streams ask for a large body and never open their window.
#[test]
fn streams_whose_window_stays_shut_hold_little() {
    if !has("curl") {
        return;
    }
    let world = World::new("cl-shut", ONLY_OK);
    let before = memory(&world);
    let frontend = world.net.get("frontend");
    let stream = connect(frontend, world.backend()[0], DECLARED_HTTP + HTTP, PATIENCE);
    let mut stream = stream.expect("the proxy accepts");
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let shut = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut bytes = [PREFACE, &shut].concat();
    for id in streams(200) {
        bytes.extend(frame(HEADERS, 5, id, &request("/ok/large-10000000000")));
    }
    stream.write_all(&bytes).expect("it stands");
    let seen = &world.servers[0].seen;
    let asked = || seen.requests.load(Ordering::SeqCst);
    assert!(
        until(PATIENCE, || asked() == 200),
        "{} streams came",
        asked()
    );
    let (mut last, mut still) = (0, 0);
    let stalled = until(PATIENCE, || {
        let now = seen.sent.load(Ordering::SeqCst);
        still = if now == last { still + 1 } else { 0 };
        last = now;
        still == 200
    });
    assert!(stalled, "the pod is asked for more and more");
    assert_others_are_served(&world, "shut windows");
    let after = memory(&world);
    println!("{before} KiB became {after} KiB, the pod has sent {last} bytes");
    // A connection to the pod has one window for all of its streams.
    assert!(
        after < before + GROWTH_MAX,
        "{before} KiB became {after} KiB"
    );
}
