//! The machine beside a plain transcription of RFC 9568 section 6.4, on configurations that know nothing else: random
//! adverts and timers, and after each the same state, the same adverts and the same timer.
//!
//! Where the machine goes beyond the RFC, the events are left out or the difference is named here:
//! - an Active that loses an election says so in a last advert, after it has withdrawn;
//! - a resignation counts when it is the Active's, and never prolongs the wait; one of somebody else is not made here;
//! - adverts that a resignation overtook are not believed for a tenth of an interval; none is made then;
//! - a second answer within a millisecond is spared: events are further apart here;
//! - a stop serves on until a successor was heard: not here, where nobody stops.

#![allow(
    clippy::unwrap_used,
    reason = "a test; clippy sees only the functions marked as such"
)]

mod random;

use krater_model::Centiseconds;
use krater_model::control::RouterState;
use krater_vrrp_proto::{ChecksumForm, Event, Heard, Machine, Output, Reason, Router, Time};
use random::Random;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;

const SEEDS: u64 = 500;
const EVENTS: u32 = 200;

/// Section 6.1, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Configured {
    priority: u64,
    interval: u64,
    preempt: bool,
    address: IpAddr,
}

/// Section 6.4, line by line.
#[derive(Debug)]
enum Table {
    Initialize,
    Backup { active_interval: u64, timer: u64 },
    Active { timer: u64 },
}

impl Table {
    fn skew(own: Configured, active_interval: u64) -> u64 {
        (256 - own.priority) * active_interval / 256
    }

    fn down(own: Configured, active_interval: u64) -> u64 {
        3 * active_interval + Self::skew(own, active_interval)
    }

    /// (110) to (175).
    fn startup(&mut self, own: Configured, now: u64, sent: &mut Vec<u64>) {
        *self = if own.priority == 255 {
            sent.push(own.priority);
            Self::Active {
                timer: now + own.interval,
            }
        } else {
            Self::Backup {
                active_interval: own.interval,
                timer: now + Self::down(own, own.interval),
            }
        };
    }

    /// (310) to (365), and (655) to (670).
    fn timer(&mut self, own: Configured, now: u64, sent: &mut Vec<u64>) {
        sent.push(own.priority);
        *self = Self::Active {
            timer: now + own.interval,
        };
    }

    /// (370) to (455), and (700) to (770).
    fn advert(
        &mut self,
        own: Configured,
        now: u64,
        (source, priority, interval): (IpAddr, u64, u64),
        sent: &mut Vec<u64>,
    ) {
        match self {
            Self::Initialize => {}
            Self::Backup {
                active_interval,
                timer,
            } => {
                if priority == 0 {
                    *timer = (*timer).min(now + Self::skew(own, *active_interval));
                } else if !own.preempt || priority >= own.priority {
                    *active_interval = interval;
                    *timer = now + Self::down(own, interval);
                }
            }
            Self::Active { timer } => {
                let wins =
                    priority > own.priority || (priority == own.priority && source > own.address);
                if priority == 0 || !wins {
                    sent.push(own.priority);
                    *timer = now + own.interval;
                } else {
                    *self = Self::Backup {
                        active_interval: interval,
                        timer: now + Self::down(own, interval),
                    };
                }
            }
        }
    }

    fn due(&self) -> Option<u64> {
        match self {
            Self::Initialize => None,
            Self::Backup { timer, .. } | Self::Active { timer } => Some(*timer),
        }
    }

    fn state(&self) -> RouterState {
        match self {
            Self::Initialize => RouterState::Initialize,
            Self::Backup { .. } => RouterState::Backup,
            Self::Active { .. } => RouterState::Active,
        }
    }
}

/// What the machine sent, without the last advert of one that gave way, and whether it resigned from somebody's advert.
fn outputs(machine: &mut Machine) -> (Vec<u64>, Option<IpAddr>) {
    let (mut sent, mut removed, mut resigned) = (Vec::new(), false, None);
    while let Some(output) = machine.poll_output() {
        match output {
            Output::SendAdvert { priority } if !removed => sent.push(priority.into()),
            Output::Remove(_) => removed = true,
            Output::StateChanged {
                reason: Reason::Resigned(by),
                ..
            } => resigned = Some(by),
            _ => {}
        }
    }
    (sent, resigned)
}

fn compare(seed: u64, wrong: bool) -> Result<(), String> {
    let mut random = Random(seed);
    let centiseconds = random.pick(&[1, 10, 100]);
    let address: IpAddr = "192.0.2.5".parse().unwrap();
    let own = Configured {
        priority: random.pick(&[1, 90, 100, 254, 255]),
        interval: centiseconds * 10_000,
        preempt: random.pick(&[false, true]),
        address,
    };
    // An owner preempts always.
    let own = Configured {
        preempt: own.preempt || own.priority == 255,
        ..own
    };
    let document = json!({
        "vrid": 7, "interface": "eth1", "priority": own.priority, "advert_interval": centiseconds,
        "preempt": own.preempt && own.priority != 255, "multicast": true, "source": address,
        "addresses": ["192.0.2.100/32"], "announce": {"repeat": 0, "delay": 0, "refresh": 0},
    });
    let router = Arc::new(Router::new(serde_json::from_value(document).unwrap()).unwrap());
    let mut now = 5_000_000;
    let at = Time::from_micros;
    let mut machine = Machine::new(router, at(now));
    let mut table = Table::Initialize;
    // Whom the Backup follows; nobody else resigns.
    let mut followed: Option<IpAddr> = None;
    // Who resigned, and until when its stragglers are not believed.
    let mut straggler: Option<(IpAddr, u64)> = None;
    let mut trace = Vec::new();
    for step in 0..EVENTS {
        let mut wanted = Vec::new();
        let due = table.due();
        let pause = 1_000 + random.below(own.interval * 2);
        let fires = due.filter(|due| step > 0 && *due <= now + pause);
        let event = if step == 0 {
            table.startup(own, now, &mut wanted);
            Event::Startup
        } else if let Some(due) = fires {
            now = due;
            table.timer(own, now, &mut wanted);
            Event::Timeout
        } else {
            now += pause;
            let host = random.pick(&[2_u8, 6, 7, 8]);
            let source: IpAddr = [192, 0, 2, host].into();
            let mut priority = random.pick(&[0, 1, 89, 90, 91, 100, 254, 255]);
            let backup = matches!(table, Table::Backup { .. });
            if priority == 0 && backup && followed.is_some_and(|active| active != source) {
                priority = 1;
            }
            if straggler.is_some_and(|(who, until)| who == source && now < until) && priority > 0 {
                continue;
            }
            let interval = random.pick(&[1, 10, 100, 4_095]);
            let advert = (source, priority, interval * 10_000);
            let follows = backup && (!own.preempt || priority >= own.priority);
            let before = table.state();
            table.advert(own, now, advert, &mut wanted);
            let gave_way = before == RouterState::Active && table.state() == RouterState::Backup;
            if priority > 0 && (follows || gave_way) {
                followed = Some(source);
            }
            Event::Heard(Heard {
                source,
                priority: u8::try_from(priority).unwrap(),
                interval: Centiseconds::new(interval).unwrap(),
                received: at(now),
                same_addresses: true,
                checksum: ChecksumForm::Rfc9568,
            })
        };
        // Timers of announcements, which the RFC does not have, send no advert.
        while let Some(early) = machine.poll_timeout().filter(|early| early.micros() < now) {
            machine.handle(early, Event::Timeout);
            let (sent, _) = outputs(&mut machine);
            if !sent.is_empty() {
                return Err(format!("seed {seed}: {sent:?} at {early:?}, due {due:?}"));
            }
        }
        trace.push(format!("{now} {event:?}"));
        machine.handle(at(now), event);
        let (mut sent, resigned) = outputs(&mut machine);
        if let Some(by) = resigned {
            let straggle = (own.interval / 10).max(20_000);
            straggler = Some((by, now + straggle));
        }
        if table.state() == RouterState::Active {
            followed = None;
        }
        if wrong && sent.len() == 1 && step > 100 {
            sent.clear();
        }
        let timer = machine.poll_timeout().map(Time::micros);
        let announces = table.state() == RouterState::Active && timer < table.due();
        let timer = if announces { table.due() } else { timer };
        if (machine.state(), &sent, timer) != (table.state(), &wanted, table.due()) {
            let from = trace.len().saturating_sub(20);
            return Err(format!(
                "seed {seed}: {own:?}\n{}\nmachine {:?} {sent:?} {timer:?}\ntable {table:?} {wanted:?}",
                trace[from..].join("\n"),
                machine.state(),
            ));
        }
    }
    Ok(())
}

#[test]
fn the_machine_does_what_the_rfc_says() {
    for seed in 0..SEEDS {
        if let Err(why) = compare(seed, false) {
            panic!("{why}");
        }
    }
}

/// The control: an advert that is not sent is missed.
#[test]
fn a_difference_is_found() {
    // Some never send, however long they live.
    let found = (0..SEEDS).filter(|seed| compare(*seed, true).is_err());
    assert!(found.count() as u64 > SEEDS / 2);
}
