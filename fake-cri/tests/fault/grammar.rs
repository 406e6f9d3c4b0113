//! The fault grammar: accepted rules, positions of errors, and that a printed rule parses to the same rule.

use std::time::Duration;

use fake_cri::{
    checkpoint::Phase,
    fault::{
        CallOutcome, Defect, Effect, ErrorStatus, InjectionPoint, MemoryRegion, Preset, Rpc, Rule, Selector,
        SideEffect, Trigger, parse_rules,
    },
};
use proptest::{option, prelude::*, sample::select};
use rstest::rstest;
use tonic::Code;

fn selector_for(rpc: &str) -> Selector {
    Selector {
        rpc: rpc.to_owned(),
        ..Selector::default()
    }
}

#[test]
fn parses_a_complete_rule() {
    let rule: Rule = r#"CheckpointContainer(container=app,nth=2):before=error(Internal,"disk on fire")"#
        .parse()
        .expect("a valid rule");
    let expected = Rule {
        selector: Selector {
            container: Some("app".to_owned()),
            ..selector_for("CheckpointContainer")
        },
        trigger: Trigger {
            nth: Some(2),
            ..Trigger::default()
        },
        point: InjectionPoint::Before,
        effect: Effect::Error(ErrorStatus {
            code: Code::Internal,
            message: "disk on fire".to_owned(),
        }),
    };
    assert_eq!(rule, expected);
}

#[rstest]
#[case("Version:before=hang", InjectionPoint::Before, Effect::Hang)]
#[case(
    "  List* : after = delay( 1m30s ) ",
    InjectionPoint::After,
    Effect::Delay(Duration::from_secs(90))
)]
#[case(
    "CheckpointContainer:freeze=leave-frozen",
    InjectionPoint::Phase(Phase::Freeze),
    Effect::LeaveFrozen
)]
#[case(
    "CheckpointContainer:capture=crash",
    InjectionPoint::Phase(Phase::Capture),
    Effect::Crash
)]
#[case(
    "CheckpointContainer:write=no-space",
    InjectionPoint::Phase(Phase::Write),
    Effect::NoSpace(0)
)]
#[case(
    "CheckpointContainer:write=no-space(64KiB)",
    InjectionPoint::Phase(Phase::Write),
    Effect::NoSpace(65536)
)]
#[case(
    "CheckpointContainer:write=io-error",
    InjectionPoint::Phase(Phase::Write),
    Effect::IoError(0)
)]
#[case(
    "CheckpointContainer:write=io-error(1MiB)",
    InjectionPoint::Phase(Phase::Write),
    Effect::IoError(1 << 20)
)]
#[case(
    "CheckpointContainer:write=mode(0644)",
    InjectionPoint::Phase(Phase::Write),
    Effect::Mode(0o644)
)]
#[case(
    "CheckpointContainer:write=partial-archive(50)",
    InjectionPoint::Phase(Phase::Write),
    Effect::PartialArchive(50)
)]
#[case(
    "CheckpointContainer:finish=kill-container",
    InjectionPoint::Phase(Phase::Finish),
    Effect::KillContainer
)]
#[case(
    r#"Version:before=error(Canceled,"a \"b\"\\\n\u{1b}ä")"#,
    InjectionPoint::Before,
    Effect::Error(ErrorStatus { code: Code::Cancelled, message: "a \"b\"\\\n\u{1b}ä".to_owned() })
)]
#[case(
    r#"Version:before=error(NOT_FOUND,"")"#,
    InjectionPoint::Before,
    Effect::Error(ErrorStatus { code: Code::NotFound, message: String::new() })
)]
#[case(
    r#"Version:before=error(14,"gone")"#,
    InjectionPoint::Before,
    Effect::Error(ErrorStatus { code: Code::Unavailable, message: "gone".to_owned() })
)]
fn parses_points_and_effects(#[case] text: &str, #[case] point: InjectionPoint, #[case] effect: Effect) {
    let rule: Rule = text.parse().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((rule.point, rule.effect), (point, effect));
}

#[rstest]
#[case("", 1, "expected an rpc name, found the end")]
#[case("CheckpointContaine:before=hang", 1, "did you mean `CheckpointContainer`?")]
#[case("Frobnicate:before=hang", 1, "the CRI has no rpc `Frobnicate`")]
#[case("Zz*:before=hang", 1, "the CRI has no rpc `Zz*`")]
#[case("Version", 8, "expected `(` or `:`, found the end")]
#[case(
    "Version(",
    9,
    "expected a selector (pod, namespace, container, nth, every, p, seed, times), found the end"
)]
#[case("Version(pid=1):before=hang", 9, "found `pid`")]
#[case("Version(pod):before=hang", 12, "expected `=`, found `)`")]
#[case("Version(pod=):before=hang", 13, "expected a name, a glob or a string, found `)`")]
#[case("Version(pod=a pod=b):before=hang", 15, "expected `,` or `)`, found `pod`")]
#[case("Version(pod=a,pod=b):before=hang", 15, "`pod` is given twice")]
#[case("Version(pod=\"[\"):before=hang", 13, "unclosed character class")]
#[case("Version(nth=0):before=hang", 13, "expected a positive number, found `0`")]
#[case("Version(nth=99999999999999999999):before=hang", 13, "is too large")]
#[case("Version(nth=1,every=2):before=hang", 15, "`nth` and `every` exclude each other")]
#[case("Version(nth=1,times=2):before=hang", 15, "`nth` and `times` exclude each other")]
#[case(
    "Version(p=1.5):before=hang",
    11,
    "expected a probability above 0 and at most 1, found `1.5`"
)]
#[case("Version(seed=7):before=hang", 15, "`seed` needs `p`")]
#[case(
    "CheckpointContainer:befor=hang",
    21,
    "expected a point (before, freeze, capture, write, finish, after), found `befor`"
)]
#[case(
    "Version:write=hang",
    9,
    "`write` is a phase of CheckpointContainer; Version has only `before` and `after`"
)]
#[case("Version:before", 15, "expected `=`, found the end")]
#[case("Version:before=explode", 16, "expected an effect (error, unimplemented,")]
#[case("Version:before=error", 21, "expected `(`, found the end")]
#[case(
    "Version:before=error(Ok,\"x\")",
    22,
    "expected a gRPC code such as Internal or 13, not OK, found `Ok`"
)]
#[case("Version:before=error(Internal)", 30, "expected `,`, found `)`")]
#[case(
    "Version:before=error(Internal,x)",
    31,
    "expected a message in double quotes, found `x`"
)]
#[case("Version:before=error(Internal,\"x", 33, "expected a closing `\"`")]
#[case("Version:before=error(Internal,\"\\q\")", 32, "expected an escape")]
#[case("Version:before=error(Internal,\"\\u{110000}\")", 32, "expected an escape")]
#[case(
    "Version:before=delay(soon)",
    22,
    "expected a duration such as 250ms or 1m30s, found `soon`"
)]
#[case(
    "Version:before=leave-frozen",
    16,
    "`leave-frozen` is not allowed at `before`; it is allowed at freeze, capture, write or finish"
)]
#[case(
    "Version:after=unimplemented",
    15,
    "`unimplemented` is not allowed at `after`; it is allowed at before"
)]
#[case(
    "CheckpointContainer:finish=mode(0644)",
    28,
    "`mode` is not allowed at `finish`; it is allowed at write"
)]
#[case(
    "CheckpointContainer:write=mode(0888)",
    32,
    "expected an octal mode such as 0644, found `0888`"
)]
#[case(
    "CheckpointContainer:write=no-space(1parsec)",
    36,
    "expected a size in bytes such as 4096 or 64KiB, found `1parsec`"
)]
#[case(
    "CheckpointContainer:write=partial-archive(101%)",
    43,
    "expected 0 to 100 percent, found `101`"
)]
#[case("Version:before=hang now", 21, "expected the end, found `now`")]
fn errors_name_the_column(#[case] text: &str, #[case] column: usize, #[case] message: &str) {
    let error = text.parse::<Rule>().expect_err("an invalid rule");
    assert_eq!(error.column(), column, "{error}");
    assert!(error.message().contains(message), "{error}");
}

#[test]
fn errors_show_a_caret_below_the_column() {
    let error = "CheckpointContainer:befor=hang"
        .parse::<Rule>()
        .expect_err("an invalid rule");
    insta::assert_snapshot!(error, @r"
    column 21: expected a point (before, freeze, capture, write, finish, after), found `befor`
      CheckpointContainer:befor=hang
                          ^
    ");
    let error = parse_rules("Version:before=hang\n\tStatus:besides=hang;").expect_err("an invalid rule");
    assert_eq!((error.line(), error.column()), (2, 9));
    assert!(
        error.to_string().starts_with("line 2, column 9: expected a point"),
        "{error}"
    );
    assert!(error.to_string().ends_with("\n  \t       ^"), "{error}");
}

#[test]
fn parses_lists_with_presets() {
    let text =
        "\n;Version:before=error(Internal,\"a;b\") ; preset:hang(container=app,times=1)\nStatus:before=disconnect;";
    let rules = parse_rules(text).unwrap_or_else(|error| panic!("{error}"));
    let printed: Vec<_> = rules.iter().map(Rule::to_string).collect();
    let expected = [
        "Version:before=error(Internal,\"a;b\")",
        "CheckpointContainer(container=app,times=1):before=hang",
        "Status:before=disconnect",
    ];
    assert_eq!(printed, expected);
    assert_eq!(parse_rules(" \n;; ").map(|rules| rules.len()), Ok(0));
}

#[rstest]
#[case("preset:nonsense", 8, "unknown preset `nonsense`; known presets: unimplemented,")]
#[case(
    "preset:next-checkpoint-fails(nth=3)",
    8,
    "preset `next-checkpoint-fails` already sets `nth`"
)]
#[case(
    "preset:next-checkpoint-fails(every=3)",
    8,
    "in preset `next-checkpoint-fails`: `nth` and `every` exclude each other"
)]
#[case("preset:hang:before=disconnect", 12, "expected `;`, a newline or the end, found `:`")]
fn overspecified_presets_are_refused(#[case] text: &str, #[case] column: usize, #[case] message: &str) {
    let error = parse_rules(text).expect_err("an invalid preset");
    assert_eq!(error.column(), column, "{error}");
    assert!(error.message().contains(message), "{error}");
}

#[test]
fn preset_rules_round_trip() {
    for preset in Preset::ALL {
        let rules = parse_rules(&format!("preset:{}", preset.name)).unwrap_or_else(|error| panic!("{error}"));
        let printed: Vec<_> = rules.iter().map(Rule::to_string).collect();
        assert_eq!(printed, preset.rule_texts, "{}", preset.name);
        assert!(
            !preset.summary.ends_with('.') && !preset.source.is_empty(),
            "{}",
            preset.name
        );
    }
    let mut names: Vec<_> = Preset::ALL.iter().map(|preset| preset.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Preset::ALL.len(), "preset names are unique");
}

#[test]
fn every_defect_round_trips() {
    let plain = Defect::WITHOUT_ARGUMENT.iter().map(|(defect, _)| *defect);
    let lost = MemoryRegion::ALL.into_iter().map(Defect::ZeroMemory);
    let after = CallOutcome::ALL
        .into_iter()
        .flat_map(|outcome| SideEffect::ALL.map(|side_effect| Defect::After(outcome, side_effect)));
    for defect in plain.chain(lost).chain(after) {
        let argument = defect
            .argument()
            .map(|argument| format!("({argument})"))
            .unwrap_or_default();
        let text = format!("CheckpointContainer:before={}{argument}", defect.name());
        let rule: Rule = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(
            (rule.point, &rule.effect),
            (InjectionPoint::Before, &Effect::Defect(defect))
        );
        assert_eq!(rule.to_string(), text);
    }
}

#[rstest]
#[case(
    "Version:before=ignore-deadline",
    "is a defect of CheckpointContainer, not of Version"
)]
#[case(
    "CheckpointContainer:write=ignore-deadline",
    "is not allowed at `write`; it is allowed at before"
)]
#[case(
    "CheckpointContainer:before=after(never,leave-frozen)",
    "expected one of success, error"
)]
#[case("CheckpointContainer:before=zero-memory(disk)", "expected one of heap, stack")]
fn unknown_defects_are_refused(#[case] text: &str, #[case] message: &str) {
    let error = text.parse::<Rule>().expect_err("an invalid defect");
    assert!(error.message().contains(message), "{error}");
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9._/*?-]{1,12}",
        "[^\\[\\]{}\\\\!]{0,12}",
        r#"[a-z"; \t\n,()=:]{0,8}"#
    ]
}

fn any_trigger() -> impl Strategy<Value = Trigger> {
    let counts = (
        option::of(1..u64::MAX),
        option::of(1..u64::MAX),
        option::of(1..u64::MAX),
    );
    let draw = option::of((prop_oneof![Just(1.0), f64::MIN_POSITIVE..1.0], option::of(any::<u64>())));
    (counts, draw).prop_map(|((nth, every, times), draw)| Trigger {
        nth,
        every: every.filter(|_| nth.is_none()),
        times: times.filter(|_| nth.is_none()),
        probability: draw.map(|(p, _)| p),
        seed: draw.and_then(|(_, seed)| seed),
    })
}

fn any_effect() -> impl Strategy<Value = (Vec<InjectionPoint>, Effect)> {
    let around = vec![InjectionPoint::Before, InjectionPoint::After];
    let phases: Vec<_> = InjectionPoint::ALL[1..5].to_vec();
    let write = vec![InjectionPoint::Phase(Phase::Write)];
    let everywhere = InjectionPoint::ALL.to_vec();
    let codes: Vec<_> = (1..=16).map(Code::from_i32).collect();
    prop_oneof![
        (select(codes), any::<String>()).prop_map(|(code, message)| Effect::Error(ErrorStatus { code, message })),
        (0..u64::from(u32::MAX), 0..1_000_000_000_u32).prop_map(|(s, ns)| Effect::Delay(Duration::new(s, ns))),
        select(vec![Effect::Hang, Effect::Crash]),
    ]
    .prop_map(move |effect| (everywhere.clone(), effect))
    .boxed()
    .prop_union(Just((around, Effect::Disconnect)).boxed())
    .or(select(vec![Effect::Unimplemented, Effect::UnknownMethod])
        .prop_map(|effect| (vec![InjectionPoint::Before], effect))
        .boxed())
    .or(select(vec![Effect::LeaveFrozen, Effect::KillContainer])
        .prop_map(move |effect| (phases.clone(), effect))
        .boxed())
    .or(prop_oneof![
        select(vec![Effect::CorruptArchive, Effect::EmptyArchive, Effect::NoArchive]),
        any::<u64>().prop_map(Effect::NoSpace),
        any::<u64>().prop_map(Effect::IoError),
        (0..20_u64, 0..41_u32).prop_map(|(n, shift)| Effect::NoSpace(n << shift)),
        (0..=100_u8).prop_map(Effect::PartialArchive),
        (0..=100_u8).prop_map(Effect::TruncatedArchive),
        (0..=0o7777_u32).prop_map(Effect::Mode),
        any_name().prop_map(Effect::Omit),
    ]
    .prop_map(move |effect| (write.clone(), effect))
    .boxed())
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let mut rpcs: Vec<_> = Rpc::all().iter().map(|rpc| rpc.name().to_owned()).collect();
    rpcs.extend(["*", "List*", "?ersion"].map(str::to_owned));
    let names = (option::of(any_name()), option::of(any_name()), option::of(any_name()));
    let points = any_effect().prop_flat_map(|(points, effect)| (select(points), Just(effect)));
    (select(rpcs), names, any_trigger(), points).prop_map(
        |(rpc, (pod, namespace, container), when, (point, effect))| Rule {
            selector: Selector {
                rpc: match point {
                    InjectionPoint::Phase(_) => "CheckpointContainer".to_owned(),
                    _ => rpc,
                },
                pod,
                namespace,
                container,
            },
            trigger: when,
            point,
            effect,
        },
    )
}

proptest! {
    #[test]
    fn printed_rules_parse_to_the_same_rule(rule in any_rule()) {
        let printed = rule.to_string();
        prop_assert!(!printed.contains('\n'), "{printed}");
        let read = printed.parse::<Rule>().map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&read, &rule);
        prop_assert_eq!(read.to_string(), printed);
    }

    #[test]
    fn printed_lists_parse_to_the_same_list(rules in prop::collection::vec(any_rule(), 0..5)) {
        let printed: Vec<_> = rules.iter().map(Rule::to_string).collect();
        prop_assert_eq!(parse_rules(&printed.join(";")), Ok(rules.clone()));
        prop_assert_eq!(parse_rules(&printed.join("\n")), Ok(rules));
    }

    #[test]
    fn any_text_parses_or_fails_within_its_columns(text in "[ -~\n]{0,60}|(preset:|Version|\\(|pod=|:before=|error|\"|\\\\|u\\{|;){0,12}") {
        if let Err(error) = parse_rules(&text) {
            let line = text.split('\n').nth(error.line() - 1).expect("a line of the text");
            prop_assert!(error.column() <= line.chars().count() + 1, "{}", error);
        }
    }
}
