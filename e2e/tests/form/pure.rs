//! A file that calls itself pure names nothing that is not.

use crate::hold::hold;
use crate::sources::{all, said};

/// Clocks, locks, clients, wakers and the libraries that have them.
const IMPURE: [&str; 14] = [
    "Instant::now",
    "Timestamp::now",
    "SystemTime",
    "Utc::now",
    "now_utc",
    "Mutex",
    "RwLock",
    "Condvar",
    "Waker",
    "tokio",
    "rdkafka",
    "actix",
    "reqwest",
    "async fn",
];

#[test]
fn a_file_that_claims_to_be_pure_names_no_clock_lock_client_or_waker() {
    let mut found = Vec::new();
    for source in all() {
        let docs: Vec<&str> = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
        let claims = |line: &&str| {
            said(line).is_some_and(|said| said.split(". ").any(|sentence| sentence.starts_with("Pure")))
        };
        if !docs.iter().any(claims) {
            continue;
        }
        let code =
            source.product().lines().filter(|line| said(line).is_none()).collect::<Vec<_>>().join("\n");
        let names = IMPURE.iter().filter(|name| code.contains(**name));
        found.extend(names.map(|name| (source.path.clone(), format!("pure, and names {name}"))));
    }
    hold("pure files name nothing impure", found);
}
