//! An API server that gives one answer after the other, whatever it is asked, and remembers what it
//! was asked. When the script is over it says nothing more.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// JSON with status 200.
    Whole(Value),
    /// A refusal, with its code.
    Refused(u16, Value),
    /// Text as it is, and then the regular end of the answer.
    Ended(String),
    /// Text as it is, and then the end of the connection in the middle of the answer.
    Cut(String),
    /// Text as it is, and then silence.
    Held(String),
}

pub struct Script {
    pub address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    /// Answers on this machine. Must be called within a tokio runtime.
    pub async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers: Arc<Mutex<VecDeque<Answer>>> =
            Arc::new(Mutex::new(answers.into_iter().collect()));
        let told = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, answers.clone(), told.clone()));
            }
        });
        Self { address, asked }
    }

    /// Paths and queries, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

async fn answer(
    mut stream: TcpStream,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).expect("a request");
    let target = head.split(' ').nth(1).expect("a target").to_owned();
    asked.lock().expect("no panic").push(target);
    let next = answers.lock().expect("no panic").pop_front();
    let Some(next) = next else {
        return std::future::pending().await;
    };
    let whole = |code: u16, text: String| {
        format!(
            "HTTP/1.1 {code} Said\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{text}",
            text.len()
        )
    };
    let begun = |text: &str| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
             transfer-encoding: chunked\r\n\r\n{}",
            match text.len() {
                0 => String::new(),
                length => format!("{length:x}\r\n{text}\r\n"),
            }
        )
    };
    let (text, held) = match next {
        Answer::Whole(value) => (whole(200, value.to_string()), false),
        Answer::Refused(code, value) => (whole(code, value.to_string()), false),
        Answer::Ended(text) => (begun(&text) + "0\r\n\r\n", false),
        Answer::Cut(text) => (begun(&text), false),
        Answer::Held(text) => (begun(&text), true),
    };
    // A client that has gone away does not matter.
    let _written = stream.write_all(text.as_bytes()).await;
    if held {
        std::future::pending::<()>().await;
    }
}
