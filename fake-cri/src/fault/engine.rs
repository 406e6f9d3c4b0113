//! Decides which rules fire on a call.
//!
//! Rules are evaluated in the order in which a call passes their points, and at one point in the order in which they
//! were added. An effect that ends the call (an error, a hang, a closed connection, a crash) also ends the evaluation:
//! later rules count the call but do not fire. An `after` rule still fires when a phase failed, because the response
//! has not been sent yet.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use globset::{Glob, GlobMatcher};

use super::{
    CallTarget, CheckpointFaults, Injection,
    effect::Effect,
    error::RuleParseError,
    grammar::parse_rules,
    rpc::Rpc,
    rule::{InjectionPoint, Rule, Trigger},
};

/// The pod annotation with rules for calls about this pod, separated by `;` or newlines.
pub const FAULT_ANNOTATION: &str = "fake-cri.dev/fault";

/// The number of pods whose annotation rules and counters are kept. The pod that was seen first is removed first.
const MAX_ANNOTATED_PODS: usize = 10_000;

/// The origin of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleSource {
    /// `--fault`.
    Flag,
    /// `--fault-file`.
    File,
    /// The annotation of the pod `namespace/name`.
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

/// A rule in force, with its counters.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleStatus {
    /// The id that [`FaultEngine::add`] returned.
    pub id: String,
    /// The parsed rule.
    pub rule: Rule,
    /// The number of calls that the rule has matched.
    pub matched_calls: u64,
    /// The number of calls on which the rule has fired.
    pub fired_calls: u64,
    /// The origin of the rule.
    pub source: RuleSource,
}

/// The faults of one call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultDecision {
    /// Effects before the runtime sees the call.
    pub before: Vec<Effect>,
    /// The faults of a checkpoint.
    pub checkpoint: CheckpointFaults,
    /// Effects after the runtime has handled the call.
    pub after: Vec<Effect>,
    /// The ids of the rules that fired.
    pub fired_rule_ids: Vec<String>,
}

/// The rules in force, with their counters.
#[derive(Debug, Default)]
pub struct FaultEngine {
    state: Mutex<EngineState>,
    /// The seed of rules without one of their own.
    seed: u64,
}

#[derive(Debug, Default)]
struct EngineState {
    /// The highest rule id so far.
    last_rule_id: u64,
    rules: Vec<CompiledRule>,
    /// Rules from annotations, by pod. A cleared rule does not come back until the annotation of the pod changes.
    pods: HashMap<String, PodRules>,
    /// The keys of `pods`, oldest first.
    pod_order: VecDeque<String>,
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
    /// Returns an engine without rules.
    pub fn new() -> FaultEngine {
        FaultEngine::default()
    }

    /// Returns an engine without rules. Rules without a seed use this one.
    pub fn with_seed(seed: u64) -> FaultEngine {
        FaultEngine {
            seed,
            ..FaultEngine::default()
        }
    }

    /// Adds rules and returns their ids in the same order.
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

    /// Removes the rules with these ids, or all rules if `ids` is empty. Returns the number of removed rules.
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

    /// All rules in force: first those of flags, files and the control API in the order of addition, then those of
    /// pods.
    pub fn list(&self) -> Vec<RuleStatus> {
        let state = self.lock();
        let pods = state.pod_order.iter().filter_map(|key| state.pods.get(key));
        let pods = pods.flat_map(|pod| &pod.rules);
        state
            .rules
            .iter()
            .chain(pods)
            .map(|compiled| compiled.status.clone())
            .collect()
    }

    /// Checks the fault annotation of a pod, if it has one.
    ///
    /// # Errors
    /// The annotation does not parse.
    pub fn check_annotations(annotations: &HashMap<String, String>) -> Result<(), RuleParseError> {
        match annotations.get(FAULT_ANNOTATION) {
            Some(text) => parse_rules(text).map(drop),
            None => Ok(()),
        }
    }

    /// Decides the faults of this call, and counts the call for every rule that matches it.
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
                    match effect {
                        Effect::Defect(defect) => decision.checkpoint.defects.push(*defect),
                        effect => decision.before.push(effect.clone()),
                    }
                }
                InjectionPoint::Phase(phase) => {
                    checkpoint_failed = effect.ends_call();
                    decision.checkpoint.injections.push(Injection {
                        phase: *phase,
                        effect: effect.clone(),
                    });
                }
                InjectionPoint::After => {
                    call_ended = effect.ends_call();
                    decision.after.push(effect.clone());
                }
            }
            status.fired_calls += 1;
            decision.fired_rule_ids.push(status.id.clone());
        }
        decision
    }

    fn lock(&self) -> MutexGuard<'_, EngineState> {
        // A panic cannot leave the state inconsistent: each change is a single assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EngineState {
    fn compile(&mut self, rule: Rule, source: RuleSource) -> CompiledRule {
        self.last_rule_id += 1;
        let glob = |text: &String| {
            Glob::new(text)
                .expect("the parser accepts only valid globs")
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

    /// Returns the key of the pod whose annotation has rules for this call. Compiles the rules if the annotation is
    /// new.
    fn load_pod_rules(&mut self, target: &CallTarget) -> Option<String> {
        let text = target.annotations.get(FAULT_ANNOTATION)?;
        let name = format!("{}/{}", target.namespace, target.pod);
        let key = if target.uid.is_empty() {
            name.clone()
        } else {
            target.uid.clone()
        };
        if self.pods.get(&key).is_none_or(|pod| pod.text != *text) {
            // RunPodSandbox rejects an annotation that does not parse. A pod from an older version with another grammar
            // has no rules.
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
                self.pod_order.push_back(key.clone());
            }
            if self.pod_order.len() > MAX_ANNOTATED_PODS
                && let Some(oldest) = self.pod_order.pop_front()
            {
                self.pods.remove(&oldest);
            }
        }
        Some(key)
    }
}

impl CompiledRule {
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
    /// Whether the rule fires on this call. Both counters are those of the rule; `matched_calls` includes this call.
    fn fires(&self, matched_calls: u64, fired_calls: u64, seed: u64) -> bool {
        self.nth.is_none_or(|nth| matched_calls == nth)
            && self.every.is_none_or(|every| matched_calls.is_multiple_of(every))
            && self.times.is_none_or(|times| fired_calls < times)
            && self
                .probability
                .is_none_or(|p| uniform_random(self.seed.unwrap_or(seed), matched_calls) < p)
    }
}

/// A number in [0, 1) that depends only on the seed and the call number, so that a seed gives the same draws forever:
/// the output function of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn uniform_random(seed: u64, call_number: u64) -> f64 {
    let mut bits = seed.wrapping_add(call_number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    // A double holds 53 bits exactly.
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
