//! A TCP proxy that can fall silent, as a network that loses packets or a frozen server does: nothing is
//! closed, nothing is refused, nothing answers. It can also be cut, as when a server has ended: everything is
//! closed at once.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes taken from one side before they are given to the other.
const CHUNK_BYTES: usize = 16 << 10;

/// Which connections are silent; they are numbered from 0 as they come.
#[derive(Clone, Copy, Default)]
struct Silence {
    /// Every connection, until further notice.
    all: bool,
    /// Connections with a smaller number, for ever.
    before: u64,
    /// The next connection's number.
    next: u64,
    /// Whether connections are closed instead.
    is_cut: bool,
}

/// Forwards to one address. Ends with this value.
pub struct Proxy {
    port: u16,
    silence: watch::Sender<Silence>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of this host and forwards to `target` (`host:port`).
    ///
    /// # Panics
    /// The machine has no free port.
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let silence = watch::Sender::new(Silence::default());
        let (target, shared) = (target.to_owned(), silence.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if shared.borrow().is_cut {
                    continue;
                }
                let mut number = 0;
                shared.send_modify(|silence| {
                    number = silence.next;
                    silence.next += 1;
                });
                let (target, silence) = (target.clone(), shared.subscribe());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(&target).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    // When one side ends, both do.
                    tokio::select! {
                        () = forward(near_in, far_out, number, silence.clone()) => {}
                        () = forward(far_in, near_out, number, silence.clone()) => {}
                        () = cut(silence) => {}
                    }
                });
            }
        });
        Self { port, silence, accepting }
    }

    /// Stands before the server of a database URL and returns the URL that leads through it.
    ///
    /// # Panics
    /// The URL names no port.
    pub async fn before(database_url: &str) -> (Self, String) {
        let (head, rest) = database_url.split_once('@').expect("the URL names a user");
        let (server, tail) = rest.split_once('/').expect("the URL names a database");
        let proxy = Self::to(server).await;
        let url = format!("{head}@127.0.0.1:{}/{tail}", proxy.port);
        (proxy, url)
    }

    /// Returns the port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops forwarding. New connections are still accepted.
    pub fn stall(&self) {
        self.silence.send_modify(|silence| silence.all = true);
    }

    /// Forwards again, first what was held.
    pub fn resume(&self) {
        self.silence.send_modify(|silence| silence.all = false);
    }

    /// Closes every connection, and whatever comes, at once.
    pub fn cut(&self) {
        self.silence.send_modify(|silence| silence.is_cut = true);
    }

    /// Forwards what comes from now on.
    pub fn mend(&self) {
        self.silence.send_modify(|silence| silence.is_cut = false);
    }

    /// Forwards again for connections that come from now on; the others stay silent.
    pub fn resume_for_new_connections(&self) {
        self.silence.send_modify(|silence| {
            silence.before = silence.next;
            silence.all = false;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn cut(mut silence: watch::Receiver<Silence>) {
    // Err: the proxy has ended, and its connections with it.
    let _ = silence.wait_for(|silence| silence.is_cut).await;
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    mut silence: watch::Receiver<Silence>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        let may_speak = silence.wait_for(|silence| !silence.all && number >= silence.before).await.is_ok();
        if !may_speak || to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}
