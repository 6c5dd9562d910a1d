//! The story as data: what each step deploys, what is asked, and what should come of it.

use policyc::request::Layer;

/// What a client should get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// 200, from the server itself.
    Allowed,
    /// 403 `RBAC: access denied`, from the proxy.
    Forbidden,
    /// No connection: the kernel answers with a reset.
    Refused,
}

/// One request that is sent, over IPv4 and over IPv6.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub from: &'static str,
    pub method: &'static str,
    pub path: &'static str,
    pub expected: Expected,
}

/// Manifests, relative to the folder of examples.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    pub title: &'static str,
    /// What a person should know before looking at the results.
    pub story: &'static str,
    /// What is compiled.
    pub sources: &'static [&'static str],
    /// What the agent knows of the cluster.
    pub inventory: &'static str,
    pub default_deny: bool,
    /// Words that some diagnostic of `policyc check` must contain, all of them.
    pub lint: &'static [&'static str],
    pub asks: &'static [Ask],
}

const fn ask(
    from: &'static str,
    method: &'static str,
    path: &'static str,
    expected: Expected,
) -> Ask {
    Ask {
        from,
        method,
        path,
        expected,
    }
}

/// The four outcomes that the author of the policies wants.
const OUTCOMES: &[Ask] = &[
    ask("frontend", "GET", "/api/v1/data", Expected::Allowed),
    ask("frontend", "POST", "/api/v1/data", Expected::Forbidden),
    ask("frontend", "GET", "/api/v1/other", Expected::Forbidden),
    ask("other", "GET", "/api/v1/data", Expected::Refused),
];

pub const STAGES: &[Stage] = &[
    Stage {
        title: "Step 1: no policy",
        story: "Two Deployments, frontend and backend, as a tutorial writes them, and a third pod. \
                The agent is attached, no policy is there: everybody reaches backend.",
        sources: &["step-1"],
        inventory: "step-1",
        default_deny: false,
        lint: &[],
        asks: &[
            ask("frontend", "GET", "/api/v1/data", Expected::Allowed),
            ask("other", "GET", "/api/v1/data", Expected::Allowed),
        ],
    },
    Stage {
        title: "Step 2: deny-all-backend",
        story: "A DENY policy with one empty rule, which matches every request. The kernel refuses \
                each connection; nothing reaches backend or the proxy.",
        sources: &["step-2"],
        inventory: "step-1", // the same pods
        default_deny: false,
        lint: &[],
        asks: &[
            ask("frontend", "GET", "/api/v1/data", Expected::Refused),
            ask("frontend", "POST", "/api/v1/data", Expected::Refused),
        ],
    },
    Stage {
        title: "Step 3: and allow-frontend-get-data",
        story: "The tutorial now adds an ALLOW policy for GET /api/v1/data and expects it to open \
                that path. It does not: DENY beats ALLOW. The compiler says so before anybody \
                wonders:",
        sources: &["step-3"],
        inventory: "step-1", // the same pods
        default_deny: false,
        lint: &["allow-frontend-get-data", "deny-all-backend"],
        asks: &[
            ask("frontend", "GET", "/api/v1/data", Expected::Refused),
            ask("frontend", "POST", "/api/v1/data", Expected::Refused),
        ],
    },
    Stage {
        title: "Step 4: the fix",
        story: "Deny-all is written as an ALLOW policy without rules (`spec: {}`): it allows \
                nothing, and what another ALLOW policy allows is allowed. frontend runs as its \
                own service account. Methods and paths are judged in userspace, the rest in the \
                kernel.",
        sources: &["step-4"],
        inventory: "step-4",
        default_deny: false,
        lint: &[],
        asks: OUTCOMES,
    },
    Stage {
        title: "Step 4, the other way: the policies of step 3, unchanged",
        story: "Compiled with --catch-all-deny=default-deny, a DENY policy that matches everything \
                is the workload's default instead: the same four outcomes.",
        sources: &[
            "step-3/policies.yaml",
            "step-4/workloads.yaml",
            "step-4/pods.yaml",
        ],
        inventory: "step-4",
        default_deny: true,
        lint: &[],
        asks: OUTCOMES,
    },
    Stage {
        title: "Step 5: the Deployment as the tutorial wrote it",
        story: "It names no serviceAccountName, so frontend runs as `default`, and the policy's \
                principal is nobody. Everything is refused, and the compiler names the Deployment:",
        sources: &["step-5"],
        inventory: "step-5",
        default_deny: false,
        lint: &["ns/default/sa/frontend", "frontend", "serviceAccountName"],
        asks: &[
            ask("frontend", "GET", "/api/v1/data", Expected::Refused),
            ask("other", "GET", "/api/v1/data", Expected::Refused),
        ],
    },
    Stage {
        title: "Step 5, mended: serviceAccountName: frontend",
        story: "One line in the Deployment, and the four outcomes hold.",
        sources: &["step-4"],
        inventory: "step-4",
        default_deny: false,
        lint: &[],
        asks: OUTCOMES,
    },
];

impl Expected {
    /// As the table shows it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allowed => "200",
            Self::Forbidden => "403",
            Self::Refused => "refused",
        }
    }

    /// Where such a verdict falls. An allowed request may be decided in either place.
    pub fn layer(self) -> Option<Layer> {
        match self {
            Self::Allowed => None,
            Self::Forbidden => Some(Layer::L7),
            Self::Refused => Some(Layer::L4),
        }
    }
}
