//! Pages of the codes about reading documents.

use super::{Code, Page};

pub const PAGES: &[(Code, Page)] = &[
    (
        Code::CannotRead,
        Page {
            title: "A file or folder cannot be read",
            example: "policyc check -f no-such-file.yaml",
            reason: "The operating system refused, the path does not exist, or the folder holds no file named *.yaml, *.yml or *.json. What cannot be read might hold a policy, so nothing is compiled without it.",
            fix: "Check the path and its permissions. Folders whose names begin with two dots are not entered: a mounted ConfigMap keeps copies there.",
        },
    ),
    (
        Code::NotUtf8,
        Page {
            title: "A file is not UTF-8",
            example: "a file saved as UTF-16 or Latin-1",
            reason: "Kubernetes manifests are UTF-8. Guessing another encoding could change a name or a path without a sign.",
            fix: "Save the file as UTF-8, with or without a byte order mark.",
        },
    ),
    (
        Code::TooLarge,
        Page {
            title: "A file, document or line is larger than the reader accepts",
            example: "a file of 600 MiB, a YAML document of 65 MiB, or a line of YAML of 2 MiB",
            reason: "The reader holds one document in memory at a time. A bound on it keeps a wrong or hostile file from taking the whole machine.",
            fix: "Split the file, put each object into its own document, or write large lists as JSON: `kubectl get -o json`.",
        },
    ),
    (
        Code::Syntax,
        Page {
            title: "The text is not valid YAML or JSON",
            example: r#"spec:
  rules:
   - to: ["#,
            reason: "The reader could not tell what the text means. The place shown is where it gave up; the cause is often a line above, such as a missing quote, bracket or blank.",
            fix: "Mend the text. An editor that indents YAML shows most of these at once.",
        },
    ),
    (
        Code::DuplicateKey,
        Page {
            title: "A key is written twice in one mapping",
            example: r#"to:
- operation:
    ports: ["80"]
to:
- operation:
    ports: ["443"]"#,
            reason: "YAML forbids equal keys. Readers that accept them keep one and drop the other without a sign, so part of the policy would vanish.",
            fix: "Remove one of them, or join their values under one key.",
        },
    ),
    (
        Code::MergeKey,
        Page {
            title: "A merge key `<<` is used",
            example: r#"spec:
  <<: *common
  action: DENY"#,
            reason: "kubectl would merge the fields; readers of today's YAML do not. A policy must not mean different things to different readers.",
            fix: "Write the fields out, or use an anchor for a whole value: `rules: *rules`.",
        },
    ),
    (
        Code::TooDeep,
        Page {
            title: "A document is nested too deeply, or its aliases expand to too much",
            example: r#"a: &a [x, x]
b: &b [*a, *a]
c: &c [*b, *b]   # and so on"#,
            reason: "A few lines of aliases can stand for billions of values. The reader stops at a bound instead of filling memory.",
            fix: "Write the document with less nesting and without chains of aliases.",
        },
    ),
    (
        Code::NotAString,
        Page {
            title: "A value is a number, boolean or null where a string is wanted",
            example: r#"ports: [8080]
values: [on]
hosts: [080]"#,
            reason: "kubectl reads a scalar without quotes by the rules of YAML 1.1: `on`, `yes` and `n` are booleans, `080` and `1_000` are numbers. The API server would reject the object, or worse, store another text than the one that is written.",
            fix: "Put the value in quotes.",
        },
    ),
    (
        Code::WrongType,
        Page {
            title: "A value has another type than the field",
            example: "methods: GET",
            reason: "The field wants a list, a mapping or a scalar, and the value is something else.",
            fix: r#"Write the type that the message names; for one value in a list: `methods: ["GET"]`."#,
        },
    ),
    (
        Code::UnknownField,
        Page {
            title: "A field does not exist",
            example: r#"to:
- operation:
    method: ["GET"]"#,
            reason: "A field that is not understood cannot be enforced, and leaving it out would make the policy wider than it reads.",
            fix: "Correct the name. If the field is newer than this compiler, the policy cannot be compiled yet.",
        },
    ),
    (
        Code::NotAnObject,
        Page {
            title: "A document is not a Kubernetes object",
            example: "rules: []",
            reason: "Every object says what it is with `apiVersion` and `kind`. A document without them may be a policy with a mistake in it.",
            fix: "Give the document both fields, or move the file out of the folder that is read.",
        },
    ),
    (
        Code::UnknownVersion,
        Page {
            title: "The API version or kind does not exist",
            example: r#"apiVersion: security.istio.io/v1alpha1
kind: AuthorizationPolicy"#,
            reason: "Versions v1 and v1beta1 of security.istio.io have the same schema. Any other may mean something else.",
            fix: "Write `apiVersion: security.istio.io/v1`.",
        },
    ),
    (
        Code::MissingField,
        Page {
            title: "A field that must be there is missing",
            example: r#"kind: AuthorizationPolicy
metadata:
  namespace: shop"#,
            reason: "Without the field the object cannot be named or used.",
            fix: "Add the field that the message names.",
        },
    ),
    (
        Code::DuplicateObject,
        Page {
            title: "Two objects have the same kind, namespace and name",
            example: "two files that both define AuthorizationPolicy default/deny-all",
            reason: "A cluster holds one of them; which one would depend on the order in which they were applied.",
            fix: "Remove one, or rename it. If two folders overlap, name only one of them.",
        },
    ),
    (
        Code::Tag,
        Page {
            title: "A YAML tag is used that Kubernetes does not know",
            example: "hosts: [!vault secret/host]",
            reason: "Tags ask the reader to make something else of a value. kubectl knows none beyond those of YAML itself.",
            fix: "Write the value as it is meant, or render the template before it is read.",
        },
    ),
    (
        Code::NullField,
        Page {
            title: "A field has no value",
            example: r#"rules:
- from:
  to:
  - operation:
      ports: ["80"]"#,
            reason: "Kubernetes drops a field whose value is null. An empty `from:` therefore means that every source matches, which is rarely what the writer meant.",
            fix: "Give the field a value, or remove it to say that everything matches.",
        },
    ),
    (
        Code::BadName,
        Page {
            title: "A name is not one that Kubernetes accepts",
            example: r#"metadata:
  name: Deny_All"#,
            reason: "Names are lower-case letters, digits, `-` and, in names but not in namespaces, `.`; both ends are letters or digits.",
            fix: "Rename the object.",
        },
    ),
];
