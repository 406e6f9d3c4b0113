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
    CallTarget,
    error::RuleParseError,
    grammar::parse_rules,
    rpc::Rpc,
    rule::{InjectionPoint, Rule, RuleEffect, Trigger},
};
use crate::checkpoint::{self, Injection, Phase};

/// The pod annotation that holds rules for the calls about this pod, separated by `;` or newlines.
pub const FAULT_ANNOTATION: &str = "fake-cri.dev/fault";

/// How many pods' annotations are remembered with their counters. The one that came first goes first.
const MAX_ANNOTATED_PODS: usize = 10_000;

/// Where a rule came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleSource {
    /// `--fault`.
    Flag,
    /// `--fault-file`.
    File,
    /// The annotation of this pod, `namespace/name`.
    Annotation(String),
    /// The control API.
    Control,
}

impl fmt::Display for RuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleSource::Flag => f.write_str("flag"),
            RuleSource::File => f.write_str("file"),
            RuleSource::Annotation(pod) => write!(f, "annotation of {pod}"),
            RuleSource::Control => f.write_str("control"),
        }
    }
}

/// A rule in force.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleStatus {
    /// Its id, given when it was added.
    pub id: String,
    /// The rule.
    pub rule: Rule,
    /// Calls in its scope so far.
    pub matched_calls: u64,
    /// Calls it has fired on.
    pub fired_calls: u64,
    /// Where it came from.
    pub source: RuleSource,
}

/// What the layer does around a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallAction {
    /// Answers with this.
    Reply {
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
pub struct FaultDecision {
    /// Before the runtime hears of it.
    pub before: Vec<CallAction>,
    /// In the phases of a checkpoint.
    pub injections: Vec<Injection>,
    /// After the runtime has done it.
    pub after: Vec<CallAction>,
    /// The ids of the rules that fired.
    pub fired_rule_ids: Vec<String>,
}

/// The rules in force and how often each has fired.
#[derive(Debug, Default)]
pub struct FaultEngine {
    state: Mutex<EngineState>,
    /// Where draws begin for a rule that has no seed of its own.
    seed: u64,
}

#[derive(Debug, Default)]
struct EngineState {
    /// Ids given so far.
    last_rule_id: u64,
    rules: Vec<CompiledRule>,
    /// The annotations seen, by pod; a rule that was cleared stays away until the pod's annotation changes.
    pods: HashMap<String, PodRules>,
    /// The keys of `pods`, oldest first.
    pod_lru: VecDeque<String>,
}

#[derive(Debug)]
struct PodRules {
    text: String,
    rules: Vec<CompiledRule>,
}

#[derive(Debug)]
struct CompiledRule {
    status: RuleStatus,
    rpc: GlobMatcher,
    pod: Option<GlobMatcher>,
    namespace: Option<GlobMatcher>,
    container: Option<GlobMatcher>,
}

impl FaultEngine {
    /// An engine without rules.
    pub fn new() -> FaultEngine {
        FaultEngine::default()
    }

    /// An engine without rules, in which a rule that has no seed draws from this one.
    pub fn with_seed(seed: u64) -> FaultEngine {
        FaultEngine {
            seed,
            ..FaultEngine::default()
        }
    }

    /// Adds rules and says their ids, in the same order.
    pub fn add(&self, rules: Vec<Rule>, source: RuleSource) -> Vec<String> {
        let mut state = self.lock();
        let compiled: Vec<_> = rules
            .into_iter()
            .map(|rule| state.compile(rule, source.clone()))
            .collect();
        let ids = compiled.iter().map(|compiled| compiled.status.id.clone()).collect();
        state.rules.extend(compiled);
        ids
    }

    /// Removes the rules of these ids, or all when none is given. Says how many went.
    pub fn clear(&self, ids: &[String]) -> usize {
        let mut state = self.lock();
        let before = state.len();
        let keep = |compiled: &CompiledRule| !ids.is_empty() && !ids.contains(&compiled.status.id);
        state.rules.retain(keep);
        for pod in state.pods.values_mut() {
            pod.rules.retain(keep);
        }
        before - state.len()
    }

    /// Every rule in force, in the order in which they were added, those of pods last.
    pub fn list(&self) -> Vec<RuleStatus> {
        let state = self.lock();
        let pods = state.pod_lru.iter().filter_map(|key| state.pods.get(key));
        let pods = pods.flat_map(|pod| &pod.rules);
        state
            .rules
            .iter()
            .chain(pods)
            .map(|compiled| compiled.status.clone())
            .collect()
    }

    /// Whether a pod's annotation can be read.
    ///
    /// # Errors
    /// Where it leaves the grammar.
    pub fn check_annotations(annotations: &HashMap<String, String>) -> Result<(), RuleParseError> {
        match annotations.get(FAULT_ANNOTATION) {
            Some(text) => parse_rules(text).map(drop),
            None => Ok(()),
        }
    }

    /// What happens to this call. Counts it for every rule in whose scope it is.
    pub fn decide(&self, rpc: &Rpc, target: &CallTarget) -> FaultDecision {
        let mut state = self.lock();
        let pod = state.load_pod_rules(target);
        let EngineState { rules, pods, .. } = &mut *state;
        let pod_rules = pod.and_then(|key| pods.get_mut(&key)).map(|pod| &mut pod.rules);
        let mut candidates: Vec<_> = rules
            .iter_mut()
            .chain(pod_rules.into_iter().flatten())
            .filter(|compiled| compiled.matches(rpc, target))
            .collect();
        candidates.sort_by_key(|compiled| compiled.status.rule.point);

        let mut decision = FaultDecision::default();
        let (mut call_ended, mut checkpoint_failed) = (false, false);
        for compiled in candidates {
            let status = &mut compiled.status;
            status.matched_calls += 1;
            let Rule {
                trigger, point, effect, ..
            } = &status.rule;
            let is_ended = call_ended || (checkpoint_failed && matches!(point, InjectionPoint::Phase(_)));
            if is_ended || !trigger.fires(status.matched_calls, status.fired_calls, self.seed) {
                continue;
            }
            match point {
                InjectionPoint::Before => {
                    call_ended = effect.ends_call();
                    decision.before.extend(call_action(effect, rpc));
                    if let RuleEffect::Defect(defect) = effect {
                        // It is about the whole call: the first phase stands for that.
                        decision.injections.push(Injection {
                            phase: Phase::Freeze,
                            effect: checkpoint::InjectedEffect::Defect(*defect),
                        });
                    }
                }
                InjectionPoint::Phase(phase) => {
                    checkpoint_failed = effect.ends_call();
                    decision.injections.extend(effect.injection(*phase));
                }
                InjectionPoint::After => {
                    call_ended = effect.ends_call();
                    decision.after.extend(call_action(effect, rpc));
                }
            }
            status.fired_calls += 1;
            decision.fired_rule_ids.push(status.id.clone());
        }
        decision
    }

    fn lock(&self) -> MutexGuard<'_, EngineState> {
        // No change of the state is left half done by a panic: each is a single assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EngineState {
    fn compile(&mut self, rule: Rule, source: RuleSource) -> CompiledRule {
        self.last_rule_id += 1;
        let glob = |text: &String| {
            Glob::new(text)
                .expect("the grammar refuses a bad glob")
                .compile_matcher()
        };
        CompiledRule {
            rpc: glob(&rule.selector.rpc),
            pod: rule.selector.pod.as_ref().map(glob),
            namespace: rule.selector.namespace.as_ref().map(glob),
            container: rule.selector.container.as_ref().map(glob),
            status: RuleStatus {
                id: format!("f{}", self.last_rule_id),
                rule,
                matched_calls: 0,
                fired_calls: 0,
                source,
            },
        }
    }

    fn len(&self) -> usize {
        self.rules.len() + self.pods.values().map(|pod| pod.rules.len()).sum::<usize>()
    }

    /// The key of the pod whose annotation has rules for this call, which are compiled when they are new.
    fn load_pod_rules(&mut self, target: &CallTarget) -> Option<String> {
        let text = target.annotations.get(FAULT_ANNOTATION)?;
        let name = format!("{}/{}", target.namespace, target.pod);
        let key = if target.uid.is_empty() {
            name.clone()
        } else {
            target.uid.clone()
        };
        if self.pods.get(&key).is_none_or(|pod| pod.text != *text) {
            // Such a pod was refused when it was made; one from before a change of the grammar has no rules.
            let rules = parse_rules(text).unwrap_or_default();
            let rules = rules
                .into_iter()
                .map(|rule| self.compile(rule, RuleSource::Annotation(name.clone())))
                .collect();
            let pod_rules = PodRules {
                text: text.clone(),
                rules,
            };
            if self.pods.insert(key.clone(), pod_rules).is_none() {
                self.pod_lru.push_back(key.clone());
            }
            if self.pod_lru.len() > MAX_ANNOTATED_PODS
                && let Some(oldest) = self.pod_lru.pop_front()
            {
                self.pods.remove(&oldest);
            }
        }
        Some(key)
    }
}

impl CompiledRule {
    /// Whether the call is in the rule's scope.
    fn matches(&self, rpc: &Rpc, target: &CallTarget) -> bool {
        let name_matches = |matcher: &Option<GlobMatcher>, name: &str| {
            matcher
                .as_ref()
                .is_none_or(|matcher| !name.is_empty() && matcher.is_match(name))
        };
        self.rpc.is_match(rpc.name())
            && name_matches(&self.pod, &target.pod)
            && name_matches(&self.namespace, &target.namespace)
            && name_matches(&self.container, &target.container)
    }
}

impl Trigger {
    /// Whether a rule that has seen so many calls, this one included, and fired on so many, fires on this one.
    fn fires(&self, matched_calls: u64, fired_calls: u64, seed: u64) -> bool {
        self.nth.is_none_or(|nth| matched_calls == nth)
            && self.every.is_none_or(|every| matched_calls.is_multiple_of(every))
            && self.times.is_none_or(|times| fired_calls < times)
            && self
                .probability
                .is_none_or(|p| uniform_random(self.seed.unwrap_or(seed), matched_calls) < p)
    }
}

/// A number from 0 up to 1 that depends on nothing but the seed and the call's number: SplitMix64's output function
/// (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), so that a seed draws the same forever.
fn uniform_random(seed: u64, call_number: u64) -> f64 {
    let mut bits = seed.wrapping_add(call_number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    // 53 bits are what a double holds exactly.
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

fn call_action(effect: &RuleEffect, rpc: &Rpc) -> Option<CallAction> {
    Some(match effect {
        RuleEffect::Error { code, message } => CallAction::Reply {
            code: *code,
            message: message.clone(),
        },
        // The words of grpc-go's generated servers and of its dispatcher.
        RuleEffect::Unimplemented => CallAction::Reply {
            code: Code::Unimplemented,
            message: format!("method {} not implemented", rpc.name()),
        },
        RuleEffect::UnknownMethod => CallAction::Reply {
            code: Code::Unimplemented,
            message: format!("unknown method {} for service {}", rpc.name(), rpc.service()),
        },
        RuleEffect::Delay(span) => CallAction::Delay(*span),
        RuleEffect::Hang => CallAction::Hang,
        RuleEffect::Disconnect => CallAction::Drop,
        RuleEffect::Crash => CallAction::Crash,
        _ => return None,
    })
}
