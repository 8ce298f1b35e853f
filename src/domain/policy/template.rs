//! Texts with variables: `{namespace}-{serviceAccount}`. The variables are a closed set of what Kubernetes vouches for, so no pod
//! can write anything of its own choice into a session name or a tag but its name.

use strum::{EnumIter, EnumString, IntoEnumIterator, IntoStaticStr};

use crate::domain::policy::Claimant;
use crate::domain::policy::fault::{listed, shown};
use crate::domain::policy::parameter::{Parameter, fit};

/// What a template can name, as it is written between braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, EnumString, IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub(super) enum Variable {
    Namespace,
    ServiceAccount,
    Pod,
    PodUid,
    Node,
    Cluster,
}

/// A text with variables, for one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    parameter: Parameter,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable(Variable),
}

/// What variables stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) who: &'a Claimant,
    pub(super) cluster: Option<&'a str>,
}

/// Why a template comes to nothing for a claimant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unrendered {
    /// Nothing is known that the variable could stand for.
    Unknown(Variable),
    /// The text is none that the parameter takes.
    Unfit(Parameter),
}

impl Variable {
    pub(super) fn name(self) -> &'static str {
        self.into()
    }
}

impl<'a> Values<'a> {
    fn get(&self, variable: Variable) -> Option<&'a str> {
        match variable {
            Variable::Namespace => Some(&self.who.namespace),
            Variable::ServiceAccount => Some(&self.who.service_account),
            Variable::Pod => self.who.pod.as_deref(),
            Variable::PodUid => self.who.pod_uid.as_deref(),
            Variable::Node => self.who.node.as_deref(),
            Variable::Cluster => self.cluster,
        }
    }
}

impl Template {
    /// Reads a text for `parameter`.
    pub(super) fn parse(text: &str, parameter: Parameter) -> Result<Self, String> {
        let pieces = pieces(text)?;
        let fixed: String = pieces.iter().filter_map(Piece::fixed).collect();
        if pieces.iter().all(|piece| piece.fixed().is_some()) {
            parameter.check(&fixed)?;
        } else {
            parameter.check_characters(&fixed)?;
            check_room(&fixed, parameter)?;
        }
        Ok(Self { parameter, pieces })
    }

    /// The session name where none is given, `{namespace}.{serviceAccount}`. Namespaces have no dots, so no two service accounts
    /// share one; with a dash between, `c` in `a-b` and `b-c` in `a` would.
    pub(super) fn default_session_name() -> Self {
        let variable = Piece::Variable;
        let pieces = vec![variable(Variable::Namespace), Piece::Text(".".into()), variable(Variable::ServiceAccount)];
        Self { parameter: Parameter::SessionName, pieces }
    }

    /// Whether `variable` is named.
    pub(super) fn names(&self, variable: Variable) -> bool {
        self.pieces.contains(&Piece::Variable(variable))
    }

    /// The text with values for its variables.
    pub(super) fn render(&self, values: &Values<'_>) -> Result<String, Unrendered> {
        let mut text = String::new();
        for piece in &self.pieces {
            text.push_str(match piece {
                Piece::Text(fixed) => fixed,
                Piece::Variable(variable) => values.get(*variable).ok_or(Unrendered::Unknown(*variable))?,
            });
        }
        match self.parameter {
            Parameter::SessionName | Parameter::SourceIdentity => Ok(fit(text)),
            // A cut external id or tag would be another one, and access is decided by them.
            Parameter::ExternalId | Parameter::TagKey | Parameter::TagValue => {
                self.parameter.check(&text).map(|()| text).map_err(|_| Unrendered::Unfit(self.parameter))
            }
        }
    }
}

impl Piece {
    fn fixed(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Variable(_) => None,
        }
    }
}

/// A text whose fixed part leaves no room would never come out as it is written.
fn check_room(fixed: &str, parameter: Parameter) -> Result<(), String> {
    let (length, most) = (fixed.chars().count(), *parameter.length().end());
    if length < most {
        return Ok(());
    }
    Err(format!("has {length} characters without its variables: {} has at most {most}", parameter.name()))
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (fixed, braced) = rest.split_at(at);
        let end = braced.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let Some((name, after)) = end.filter(|(name, _)| !name.contains('{')) else { return Err(unbalanced(text)) };
        if !fixed.is_empty() {
            pieces.push(Piece::Text(fixed.to_owned()));
        }
        pieces.push(Piece::Variable(name.parse().map_err(|_| unknown(name))?));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

fn unbalanced(text: &str) -> String {
    if text.contains("{{") || text.contains("}}") {
        return format!("{} has doubled braces: one on each side is right, as in {{namespace}}", shown(text));
    }
    format!("{} has a brace without its other half", shown(text))
}

fn unknown(name: &str) -> String {
    let known: Vec<String> = Variable::iter().map(|variable| format!("{{{}}}", variable.name())).collect();
    format!("{} is not a variable: {} are", shown(&format!("{{{name}}}")), listed(&known))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn who() -> Claimant {
        let (pod, pod_uid) = (Some("app-0".into()), Some("0b6bfad1".into()));
        Claimant { pod, pod_uid, ..Claimant::hypothetical("team-a", "builder") }
    }

    fn render(text: &str, parameter: Parameter, who: &Claimant) -> Result<String, Unrendered> {
        Template::parse(text, parameter).unwrap().render(&Values { who, cluster: Some("demo") })
    }

    #[test]
    fn variables_are_replaced() {
        let all = "{cluster}/{namespace}/{serviceAccount}:{pod}{podUid}";
        assert_eq!(render(all, Parameter::ExternalId, &who()), Ok("demo/team-a/builder:app-00b6bfad1".into()));
        assert_eq!(render("", Parameter::TagValue, &who()), Ok(String::new()));
        assert_eq!(render("{node}", Parameter::TagValue, &who()), Err(Unrendered::Unknown(Variable::Node)));
    }

    #[test]
    fn names_are_cut_and_what_decides_access_never_is() {
        let long = Claimant { pod: Some("p".repeat(253)), ..who() };
        assert_eq!(render("{pod}", Parameter::SessionName, &long).unwrap().len(), 64);
        assert_eq!(render("{pod}", Parameter::SourceIdentity, &long).unwrap().len(), 64);
        assert_eq!(render("{pod}", Parameter::TagValue, &long).unwrap().len(), 253);
        assert_eq!(render("{pod}{pod}", Parameter::TagValue, &long), Err(Unrendered::Unfit(Parameter::TagValue)));
        assert_eq!(
            render("{pod}{pod}{pod}{pod}{pod}", Parameter::ExternalId, &long),
            Err(Unrendered::Unfit(Parameter::ExternalId))
        );
        let short = Claimant { pod: Some("p".into()), ..who() };
        assert_eq!(render("{pod}", Parameter::ExternalId, &short), Err(Unrendered::Unfit(Parameter::ExternalId)));
    }

    #[test]
    fn what_is_wrong_is_told_when_it_is_read() {
        let room = "x".repeat(64) + "{pod}";
        let rows = [
            ("{Namespace}", "{namespace}, {serviceAccount}, {pod}, {podUid}, {node} or {cluster} are"),
            ("{}", "not a variable"),
            ("{namespace", "other half"),
            ("namespace}", "other half"),
            ("{{namespace}}", "has doubled braces: one on each side is right, as in {namespace}"),
            ("{{ namespace }}", "doubled braces"),
            ("{namespace}}", "doubled braces"),
            ("a b", "' '"),
            ("a", "has 1 character: "),
            (&*room, "without its variables"),
        ];
        for (text, expected) in rows {
            let message = Template::parse(text, Parameter::SessionName).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn no_two_service_accounts_share_the_default_session_name(
            one in "[ab-]{1,63}", one_account in "[ab.-]{1,80}", other in "[ab-]{1,63}", other_account in "[ab.-]{1,80}",
        ) {
            let name = |namespace: &str, account: &str| {
                let who = Claimant::hypothetical(namespace, account);
                Template::default_session_name().render(&Values { who: &who, cluster: None }).unwrap()
            };
            let same = (&one, &one_account) == (&other, &other_account);
            prop_assert_eq!(same, name(&one, &one_account) == name(&other, &other_account));
        }

        #[test]
        fn a_text_without_braces_stands_for_itself(text in "[a-z0-9.@-]{2,64}") {
            prop_assert_eq!(render(&text, Parameter::SourceIdentity, &who()), Ok(text));
        }

        #[test]
        fn no_text_is_too_odd_to_be_read_or_refused(text in "\\PC{0,40}|[{}a-z]{0,20}") {
            let _ = Template::parse(&text, Parameter::SessionName);
        }
    }
}
