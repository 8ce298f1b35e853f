//! Lines as the EKS Pod Identity Agent's manifests have them, and what becomes of them.

use super::*;
use crate::config::flags::ServerFlags;

fn line(line: &str) -> Vec<OsString> {
    ["/eks-pod-identity-agent"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect()
}

fn server(words: &str) -> (ServerFlags, Vec<String>) {
    let (cli, notes) = read(line(words)).unwrap();
    let Command::Server(flags) = cli.command else { panic!("{words} is another command") };
    (*flags, notes)
}

#[test]
fn the_name_decides() {
    for (program, name) in [
        ("/eks-pod-identity-agent", Name::Incumbent),
        ("eks-pod-identity-agent", Name::Incumbent),
        ("/go-runner", Name::GoRunner),
        ("./bin/go-runner", Name::GoRunner),
        ("/usr/bin/credlet", Name::Credlet),
        ("/eks-pod-identity-agent/credlet", Name::Credlet),
        ("", Name::Credlet),
    ] {
        assert_eq!(Name::of(OsStr::new(program)), name, "{program}");
    }
}

#[test]
fn what_is_unknown_is_left_out_with_its_value() {
    for (words, left_out) in [
        ("server -c demo --enable-imds-credentials -p 8080", &["--enable-imds-credentials"][..]),
        ("server -c demo --enable-imds-credentials true -p 8080", &["--enable-imds-credentials"]),
        ("server --svid-renewal-jitter=0.2 -c demo -p 8080 --x509-svid-duration 6h0m0s", &["--svid-renewal", "--x509-svid"]),
        ("server -c demo --of-tomorrow --and-of-the-day-after x -p 8080", &["--of-tomorrow", "--and-of"]),
        ("server -c demo word -zx -p 8080", &["word", "-z"]),
    ] {
        let (flags, notes) = server(words);
        assert_eq!((flags.cluster_name.as_deref(), flags.port.as_str()), (Some("demo"), "8080"), "{words}");
        assert_eq!(notes.len(), left_out.len(), "{notes:?}");
        for (note, unknown) in notes.iter().zip(left_out) {
            assert!(note.starts_with(unknown) && note.contains(" is ignored"), "{note}");
        }
    }
    assert!(server("server -c demo --jwt-svid-duration 1h").1[0].contains("SPIFFE"));
}

#[test]
fn the_note_says_which_word_went_with_a_flag() {
    for (words, note) in [
        ("--of-tomorrow 8080", "--of-tomorrow is ignored together with the word after it: credlet does not know it"),
        ("--of-tomorrow=8080", "--of-tomorrow is ignored: credlet does not know it"),
        ("--of-tomorrow -p 8080", "--of-tomorrow is ignored: credlet does not know it"),
    ] {
        assert_eq!(server(&format!("server -c demo {words}")).1, [note], "{words}");
    }
}

#[test]
fn values_are_spelled_as_with_go() {
    let (flags, notes) =
        server("-v trace server -cdemo -p=81 --probe-port=2 --metrics-port 3 -b 127.0.0.1 -b [::1] --probe-port 4");
    assert_eq!((flags.cluster_name.as_deref(), flags.port.as_str(), flags.probe_port.as_str()), (Some("demo"), "81", "4"));
    assert_eq!((flags.log.verbosity.as_str(), flags.bind_hosts.as_slice()), ("trace", &["127.0.0.1".into(), "[::1]".into()][..]));
    assert!(notes.len() == 1 && notes[0].starts_with("--bind-hosts: "), "{notes:?}");
    for (words, on) in [("", "true"), (" true", "true"), ("=false", "false"), ("=1", "true"), (" -v info", "true")] {
        let (flags, notes) = server(&format!("server -c demo --rotate-credentials{words}"));
        assert_eq!((flags.rotate_credentials.as_str() == "false", notes.len()), (on == "false", 0), "{words}");
    }
}

#[test]
fn what_means_something_else_is_told_once() {
    let (_, notes) = server("server --port 80 --cluster-name demo --probe-port 2703 --metrics-port 2705 -v trace");
    assert_eq!(notes, [""; 0], "nothing to say about what all manifests pass");
    for (words, flag) in [
        ("--max-service-qps 3 --max-service-qps 4", "--max-service-qps: "),
        ("--max-credential-retention-before-renewal 3h", "--max-credential-retention-before-renewal: "),
        ("--max-cache-size 2000", "--max-cache-size: "),
        ("--endpoint https://eks-auth.example", "--endpoint: "),
        ("--bind-hosts localhost -b 127.0.0.2", "--bind-hosts: "),
        ("--metrics-port 0", "--metrics-port: "),
        ("-v PANIC", "--verbosity: "),
        ("--rotate-credentials false", "--rotate-credentials: "),
    ] {
        let (_, notes) = server(&format!("server -c demo {words}"));
        assert!(notes.len() == 1 && notes[0].starts_with(flag), "{words}: {notes:?}");
    }
}

#[test]
fn the_guide_names_each_difference() {
    let guide = include_str!("../../docs/replacing.md");
    for Difference { id, .. } in DIFFERENCES {
        let flag = if id == "verbosity" { "-v panic".to_owned() } else { format!("--{}", id.replace('_', "-")) };
        assert!(guide.contains(&format!("| `{flag}")), "{flag}");
    }
}

#[test]
fn a_rate_of_zero_is_the_default() {
    assert_eq!(server("server -c demo --max-service-qps 0").0.max_service_qps, DEFAULT_RATE);
}

#[test]
fn faulty_values_stay_faults_and_help_is_help() {
    assert_eq!(read(line("server --port")).unwrap_err().kind(), ErrorKind::InvalidValue);
    assert_eq!(read(line("serve --help")).unwrap_err().kind(), ErrorKind::DisplayHelp);
    assert!(read(line("elsewhere")).is_err());
}
