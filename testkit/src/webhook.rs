//! A webhook that answers as it is told, over plain sockets, so that it can break what a server library would
//! not let break.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How one request is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// With that status, and perhaps a header line.
    Status(u16, &'static str),
    /// Not at all; the connection stays.
    Hang,
    /// By a reset of the connection.
    Reset,
    /// By bytes that are no HTTP.
    Garbage,
    /// By a byte of the head now and then, for longer than anybody waits.
    Slow,
    /// By a promise of a body that never comes whole.
    HalfBody,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its headers, by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
    /// Whether it was answered with 200 or 204.
    pub is_taken: bool,
}

impl Request {
    /// Returns the body as JSON.
    ///
    /// # Panics
    /// It is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What the server remembers, and what it is going to do.
#[derive(Default)]
struct Shared {
    requests: Vec<Request>,
    answers: VecDeque<Answer>,
    otherwise: Option<Answer>,
}

/// A webhook that ends with this value.
pub struct Server {
    /// Its port of 127.0.0.1.
    pub port: u16,
    shared: Arc<Mutex<Shared>>,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    /// Answers 200, unless it is told otherwise.
    ///
    /// # Panics
    /// The machine has no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Mutex<Shared>>::default();
        let state = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&state)));
            }
        });
        Self { port, shared, accepting }
    }

    /// Returns where to call it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// Answers the next requests like this.
    ///
    /// # Panics
    /// A connection of it has panicked.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.lock().unwrap().answers.extend(answers);
    }

    /// Answers every request like this from now on; none: 200.
    ///
    /// # Panics
    /// A connection of it has panicked.
    pub fn answer_all(&self, answer: Option<Answer>) {
        self.shared.lock().unwrap().otherwise = answer;
    }

    /// Returns the requests so far.
    ///
    /// # Panics
    /// A connection of it has panicked.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().unwrap().requests.clone()
    }

    /// Returns those that were answered with 200 or 204.
    ///
    /// # Panics
    /// A connection of it has panicked.
    pub fn taken(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.is_taken).collect()
    }
}

async fn serve(mut socket: TcpStream, shared: Arc<Mutex<Shared>>) {
    while let Some((headers, body)) = read(&mut socket).await {
        let answer = {
            let mut shared = shared.lock().unwrap();
            let otherwise = shared.otherwise.clone().unwrap_or(Answer::Status(200, ""));
            let answer = shared.answers.pop_front().unwrap_or(otherwise);
            let is_taken = matches!(answer, Answer::Status(200 | 204, _));
            shared.requests.push(Request { headers, body, is_taken });
            answer
        };
        let text = match answer {
            Answer::Status(status, header) => {
                let body = if status == 204 { "" } else { "Content-Length: 2\r\n\r\nok" };
                format!(
                    "HTTP/1.1 {status} Whatever\r\n{header}{}",
                    if body.is_empty() { "\r\n" } else { body }
                )
            }
            Answer::Garbage => "\u{0}\u{1}no HTTP at all\r\n\r\n".to_owned(),
            Answer::HalfBody => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_owned(),
            Answer::Hang => return std::future::pending().await,
            Answer::Reset => {
                socket.set_zero_linger().unwrap();
                return;
            }
            Answer::Slow => {
                for byte in std::iter::repeat_n(b'H', 1_000) {
                    if socket.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                return;
            }
        };
        if socket.write_all(text.as_bytes()).await.is_err() || matches!(answer, Answer::HalfBody) {
            return;
        }
    }
}

/// Reads one request; none at the end of the connection.
async fn read(socket: &mut TcpStream) -> Option<(BTreeMap<String, String>, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<_, _> =
        lines.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let length: usize = headers["content-length"].parse().unwrap();
    while bytes.len() < end + length {
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some((headers, bytes[end..end + length].to_vec()))
}
