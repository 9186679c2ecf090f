use super::*;
use proptest::prelude::*;

const CALL_MAX: Duration = Duration::from_secs(10);

/// What happens next: time passes, then somebody asks, and what was allowed ends like this.
#[derive(Clone, Debug)]
struct Event {
    after: Duration,
    ends: Option<bool>,
    asked_s: Option<u64>,
    chance: f64,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event =
        (0_u64..20_000, prop::option::weighted(0.8, any::<bool>()), prop::option::of(0_u64..7_200), 0.0..1.0);
    let event = event.prop_map(|(after_ms, ends, asked_s, chance)| Event {
        after: Duration::from_millis(after_ms),
        ends,
        asked_s,
        chance,
    });
    prop::collection::vec(event, 1..200)
}

proptest! {
    #[test]
    fn any_course_of_calls_keeps_the_rate_and_never_ends_for_good(
        per_minute in 1_u32..100,
        events in events(),
    ) {
        let start = Instant::now();
        let (mut now, mut gate) = (start, Gate::new(per_minute, start));
        let mut allowed: Vec<Instant> = Vec::new();
        let mut closed_until = start;
        for event in events {
            now += event.after;
            let was_open = gate.is_open();
            match gate.ask(now, CALL_MAX) {
                Ok(()) => {
                    prop_assert!(now >= closed_until, "called while the circuit is open");
                    allowed.push(now);
                    if was_open {
                        prop_assert!(gate.ask(now, CALL_MAX).is_err(), "two probes at once");
                    }
                    match event.ends {
                        Some(true) => gate.succeeded(),
                        Some(false) => {
                            let asked = event.asked_s.map(Duration::from_secs);
                            gate.failed(now, event.chance, asked);
                            if let Some(asked) = asked {
                                closed_until = now + asked.min(ASKED_LONGEST);
                            }
                        }
                        None => {} // dropped
                    }
                    if event.ends == Some(true) {
                        prop_assert!(!gate.is_open());
                        closed_until = start;
                    }
                }
                Err(wait) => prop_assert!(wait > Duration::ZERO && wait <= ASKED_LONGEST.max(Duration::from_secs(60))),
            }
        }
        for (place, first) in allowed.iter().enumerate() {
            let within = allowed[place..].iter().take_while(|at| **at - *first < Duration::from_secs(60)).count();
            prop_assert!(within <= 2 * per_minute as usize, "{within} calls in a minute");
        }
        // After some waits, each as long as it is told, a caller is let through.
        let mut asks = 0;
        while let Err(wait) = gate.ask(now, CALL_MAX) {
            now += wait;
            asks += 1;
            prop_assert!(asks < 200, "never again");
        }
    }
}

#[test]
fn circuit_opens_at_the_third_failure_and_waits_longer_each_time() {
    let start = Instant::now();
    let mut gate = Gate::new(1_000, start);
    for _ in 0..2 {
        gate.failed(start, 1.0, None);
        assert!(!gate.is_open());
    }
    let mut now = start;
    for expected_s in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        gate.failed(now, 1.0, None);
        assert_eq!(gate.ask(now, CALL_MAX), Err(Duration::from_secs(expected_s)));
        now += Duration::from_secs(expected_s);
        assert_eq!(gate.ask(now, CALL_MAX), Ok(()), "the probe");
    }
    gate.succeeded();
    gate.failed(now, 1.0, None);
    assert_eq!(gate.ask(now, CALL_MAX), Ok(()), "one failure after a success is nothing");
}

#[test]
fn a_target_that_asks_for_a_pause_gets_it_at_once() {
    let start = Instant::now();
    let mut gate = Gate::new(1_000, start);
    gate.failed(start, 0.0, Some(Duration::from_secs(30)));
    assert_eq!(gate.ask(start, CALL_MAX), Err(Duration::from_secs(30)));
    gate.failed(start, 0.0, Some(Duration::from_secs(u64::MAX / 4)));
    assert_eq!(gate.ask(start, CALL_MAX), Err(ASKED_LONGEST));
}
