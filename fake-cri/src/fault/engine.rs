//! Decides for each call which rules fire.
//!
//! Rules are weighed in the order in which a call passes their points, and at one point in the order in which they were
//! added. What ends a call (an error, a hang, a dropped connection, a crash) ends the weighing too: a rule behind it has
//! seen the call and does not fire. An `after` rule fires although a phase failed, for the caller's answer is still to come.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use globset::{Glob, GlobMatcher};
use tonic::Code;

use super::{
    Subject,
    error::ParseError,
    grammar::parse_rules,
    rpc::Rpc,
    rule::{Effect, Point, Rule, When},
};
use crate::checkpoint::{self, Injection, Phase};

/// The pod annotation that holds rules for the calls about this pod, separated by `;` or newlines.
pub const ANNOTATION: &str = "fake-cri.dev/fault";

/// How many pods' annotations are remembered with their counters. The one that came first goes first.
const PODS: usize = 10_000;

/// Where a rule came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `--fault`.
    Flag,
    /// `--fault-file`.
    File,
    /// The annotation of this pod, `namespace/name`.
    Annotation(String),
    /// The control API.
    Control,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("flag"),
            Source::File => f.write_str("file"),
            Source::Annotation(pod) => write!(f, "annotation of {pod}"),
            Source::Control => f.write_str("control"),
        }
    }
}

/// A rule in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Its id, given when it was added.
    pub id: String,
    /// The rule.
    pub rule: Rule,
    /// Calls in its scope so far.
    pub seen: u64,
    /// Calls it has fired on.
    pub fired: u64,
    /// Where it came from.
    pub source: Source,
}

/// What the layer does around a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answers with this.
    Answer {
        /// The gRPC code.
        code: Code,
        /// The message, word for word.
        message: String,
    },
    /// Waits, then goes on.
    Delay(Duration),
    /// Waits for the deadline or the caller's end.
    Hang,
    /// Closes the connection.
    Drop,
    /// Kills this process.
    Crash,
}

/// What happens to one call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Before the runtime hears of it.
    pub before: Vec<Action>,
    /// In the phases of a checkpoint.
    pub injections: Vec<Injection>,
    /// After the runtime has done it.
    pub after: Vec<Action>,
    /// The ids of the rules that fired.
    pub fired: Vec<String>,
}

/// The rules in force and how often each has fired.
#[derive(Debug, Default)]
pub struct Engine {
    state: Mutex<State>,
    /// Where draws begin for a rule that has no seed of its own.
    seed: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Ids given so far.
    given: u64,
    rules: Vec<Armed>,
    /// The annotations seen, by pod; a rule that was cleared stays away until the pod's annotation changes.
    pods: HashMap<String, Annotated>,
    /// The keys of `pods`, oldest first.
    arrivals: VecDeque<String>,
}

#[derive(Debug)]
struct Annotated {
    text: String,
    rules: Vec<Armed>,
}

#[derive(Debug)]
struct Armed {
    listed: Listed,
    rpc: GlobMatcher,
    pod: Option<GlobMatcher>,
    namespace: Option<GlobMatcher>,
    container: Option<GlobMatcher>,
}

impl Engine {
    /// An engine without rules.
    pub fn new() -> Engine {
        Engine::default()
    }

    /// An engine without rules, in which a rule that has no seed draws from this one.
    pub fn with_seed(seed: u64) -> Engine {
        Engine {
            seed,
            ..Engine::default()
        }
    }

    /// Adds rules and says their ids, in the same order.
    pub fn add(&self, rules: Vec<Rule>, source: Source) -> Vec<String> {
        let mut state = self.state();
        let armed: Vec<_> = rules.into_iter().map(|rule| state.arm(rule, source.clone())).collect();
        let ids = armed.iter().map(|armed| armed.listed.id.clone()).collect();
        state.rules.extend(armed);
        ids
    }

    /// Removes the rules of these ids, or all when none is given. Says how many went.
    pub fn clear(&self, ids: &[String]) -> usize {
        let mut state = self.state();
        let before = state.len();
        let keep = |armed: &Armed| !ids.is_empty() && !ids.contains(&armed.listed.id);
        state.rules.retain(keep);
        for pod in state.pods.values_mut() {
            pod.rules.retain(keep);
        }
        before - state.len()
    }

    /// Every rule in force, in the order in which they were added, those of pods last.
    pub fn list(&self) -> Vec<Listed> {
        let state = self.state();
        let pods = state.arrivals.iter().filter_map(|key| state.pods.get(key));
        let pods = pods.flat_map(|pod| &pod.rules);
        state
            .rules
            .iter()
            .chain(pods)
            .map(|armed| armed.listed.clone())
            .collect()
    }

    /// Whether a pod's annotation can be read.
    ///
    /// # Errors
    /// Where it leaves the grammar.
    pub fn check_annotations(annotations: &HashMap<String, String>) -> Result<(), ParseError> {
        match annotations.get(ANNOTATION) {
            Some(text) => parse_rules(text).map(drop),
            None => Ok(()),
        }
    }

    /// What happens to this call. Counts it for every rule in whose scope it is.
    pub fn decide(&self, rpc: &Rpc, subject: &Subject) -> Decision {
        let mut state = self.state();
        let pod = state.annotated(subject);
        let State { rules, pods, .. } = &mut *state;
        let own = pod.and_then(|key| pods.get_mut(&key)).map(|pod| &mut pod.rules);
        let mut candidates: Vec<_> = rules
            .iter_mut()
            .chain(own.into_iter().flatten())
            .filter(|armed| armed.takes(rpc, subject))
            .collect();
        candidates.sort_by_key(|armed| armed.listed.rule.point);

        let mut decision = Decision::default();
        let (mut answered, mut failed) = (false, false);
        for armed in candidates {
            let listed = &mut armed.listed;
            listed.seen += 1;
            let Rule {
                when, point, effect, ..
            } = &listed.rule;
            let over = answered || (failed && matches!(point, Point::Phase(_)));
            if over || !when.fires(listed.seen, listed.fired, self.seed) {
                continue;
            }
            match point {
                Point::Before => {
                    answered = effect.ends();
                    decision.before.extend(action(effect, rpc));
                    if let Effect::Quirk(quirk) = effect {
                        // It is about the whole call: the first phase stands for that.
                        decision.injections.push(Injection {
                            phase: Phase::Freeze,
                            effect: checkpoint::Effect::Quirk(*quirk),
                        });
                    }
                }
                Point::Phase(phase) => {
                    failed = effect.ends();
                    decision.injections.extend(effect.injection(*phase));
                }
                Point::After => {
                    answered = effect.ends();
                    decision.after.extend(action(effect, rpc));
                }
            }
            listed.fired += 1;
            decision.fired.push(listed.id.clone());
        }
        decision
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No change of the state is left half done by a panic: each is a single assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn arm(&mut self, rule: Rule, source: Source) -> Armed {
        self.given += 1;
        let glob = |text: &String| {
            Glob::new(text)
                .expect("the grammar refuses a bad glob")
                .compile_matcher()
        };
        Armed {
            rpc: glob(&rule.scope.rpc),
            pod: rule.scope.pod.as_ref().map(glob),
            namespace: rule.scope.namespace.as_ref().map(glob),
            container: rule.scope.container.as_ref().map(glob),
            listed: Listed {
                id: format!("f{}", self.given),
                rule,
                seen: 0,
                fired: 0,
                source,
            },
        }
    }

    fn len(&self) -> usize {
        self.rules.len() + self.pods.values().map(|pod| pod.rules.len()).sum::<usize>()
    }

    /// The key of the pod whose annotation has rules for this call, which are armed when they are new.
    fn annotated(&mut self, subject: &Subject) -> Option<String> {
        let text = subject.annotations.get(ANNOTATION)?;
        let name = format!("{}/{}", subject.namespace, subject.pod);
        let key = if subject.uid.is_empty() {
            name.clone()
        } else {
            subject.uid.clone()
        };
        if self.pods.get(&key).is_none_or(|pod| pod.text != *text) {
            // Such a pod was refused when it was made; one from before a change of the grammar has no rules.
            let rules = parse_rules(text).unwrap_or_default();
            let rules = rules
                .into_iter()
                .map(|rule| self.arm(rule, Source::Annotation(name.clone())))
                .collect();
            let annotated = Annotated {
                text: text.clone(),
                rules,
            };
            if self.pods.insert(key.clone(), annotated).is_none() {
                self.arrivals.push_back(key.clone());
            }
            if self.arrivals.len() > PODS
                && let Some(oldest) = self.arrivals.pop_front()
            {
                self.pods.remove(&oldest);
            }
        }
        Some(key)
    }
}

impl Armed {
    /// Whether the call is in the rule's scope.
    fn takes(&self, rpc: &Rpc, subject: &Subject) -> bool {
        let named = |matcher: &Option<GlobMatcher>, name: &str| {
            matcher
                .as_ref()
                .is_none_or(|matcher| !name.is_empty() && matcher.is_match(name))
        };
        self.rpc.is_match(rpc.name())
            && named(&self.pod, &subject.pod)
            && named(&self.namespace, &subject.namespace)
            && named(&self.container, &subject.container)
    }
}

impl When {
    /// Whether a rule that has seen so many calls, this one included, and fired on so many, fires on this one.
    fn fires(&self, seen: u64, fired: u64, seed: u64) -> bool {
        self.nth.is_none_or(|nth| seen == nth)
            && self.every.is_none_or(|every| seen.is_multiple_of(every))
            && self.times.is_none_or(|times| fired < times)
            && self
                .probability
                .is_none_or(|p| draw(self.seed.unwrap_or(seed), seen) < p)
    }
}

/// A number from 0 up to 1 that depends on nothing but the seed and the call's number: SplitMix64's output function
/// (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), so that a seed draws the same forever.
fn draw(seed: u64, number: u64) -> f64 {
    let mut bits = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    // 53 bits are what a double holds exactly.
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

fn action(effect: &Effect, rpc: &Rpc) -> Option<Action> {
    Some(match effect {
        Effect::Error { code, message } => Action::Answer {
            code: *code,
            message: message.clone(),
        },
        // The words of grpc-go's generated servers and of its dispatcher.
        Effect::Unimplemented => Action::Answer {
            code: Code::Unimplemented,
            message: format!("method {} not implemented", rpc.name()),
        },
        Effect::UnknownMethod => Action::Answer {
            code: Code::Unimplemented,
            message: format!("unknown method {} for service {}", rpc.name(), rpc.service()),
        },
        Effect::Delay(span) => Action::Delay(*span),
        Effect::Hang => Action::Hang,
        Effect::Drop => Action::Drop,
        Effect::Crash => Action::Crash,
        _ => return None,
    })
}
