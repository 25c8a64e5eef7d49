"""Every figure that the agent shows on /metrics. `docs/metrics.md` has the same table, and a test compares the two.

Labels have few values: verbs, tables, kinds, pools. Pods, containers and addresses are never among them.
"""

from __future__ import annotations

from podwire.agent.figures import COUNTER, GAUGE, HISTOGRAM, Family

_QUICK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

READY = Family(
    "podwire_ready", GAUGE, "Whether the agent is ready (1) or not (0): every engine has applied everything known."
)
PART_READY = Family(
    "podwire_part_ready", GAUGE, "Whether this part of the agent is ready (1) or not (0); /readyz says why.", ("part",)
)
LEADER = Family(
    "podwire_cluster_leader", GAUGE, "Whether this agent holds the Lease for the cluster's duties (1) or not (0)."
)
BUILD = Family(
    "podwire_build_info", GAUGE, "Always 1; the labels tell what runs here.", ("version", "python", "kernel")
)

OTHER_CONFIGURATIONS = Family(
    "podwire_other_configurations",
    GAUGE,
    "CNI configurations beside ours, written by the agents of another pod network that runs on this node, too.",
)

CNI_CALLS = Family(
    "podwire_cni_call_seconds",
    HISTOGRAM,
    "Time from a whole CNI request to its answer, by verb, plugin name and CNI error code (0: success).",
    ("verb", "role", "code"),
    _QUICK,
)
SPOOL = Family(
    "podwire_spooled_calls", GAUGE, "DELs that the plugin kept while no agent answered and that are not done yet."
)
ENDPOINTS = Family(
    "podwire_endpoints", GAUGE, "Attachments on record, by what made them and how far they are.", ("role", "state")
)

POOL_ADDRESSES = Family(
    "podwire_ipam_pool_addresses",
    GAUGE,
    "Addresses of a pool in the whole cluster: used, free in some node's block, or unclaimed (in no block).",
    ("pool", "state"),
)
POOL_BLOCKS = Family("podwire_ipam_pool_blocks", GAUGE, "Blocks of a pool in the whole cluster.", ("pool",))
NODE_BLOCKS = Family("podwire_ipam_node_blocks", GAUGE, "Blocks that are affine to this node, by pool.", ("pool",))
NODE_ADDRESSES = Family(
    "podwire_ipam_node_addresses",
    GAUGE,
    "Addresses of this node's blocks: used, claimed ahead for the next pods, or free.",
    ("pool", "state"),
)

API_REQUESTS = Family(
    "podwire_api_request_seconds",
    HISTOGRAM,
    "Round trips to the Kubernetes API, by verb and resource; watches are not among them.",
    ("verb", "resource"),
    _SLOW,
)
API_ERRORS = Family(
    "podwire_api_errors_total",
    COUNTER,
    "Round trips that the API refused, by HTTP status (0: nobody answered).",
    ("verb", "resource", "status"),
)
API_CONFLICTS = Family(
    "podwire_api_conflicts_total",
    COUNTER,
    "Compare-and-swaps that lost against another writer, by resource; for blocks this is contention between nodes.",
    ("resource",),
)

WATCH_UPDATES = Family(
    "podwire_watch_updates_total", COUNTER, "Objects that watches told, news and removals, by resource.", ("resource",)
)
WATCH_LISTS = Family(
    "podwire_watch_lists_total",
    COUNTER,
    "Times that everything of a resource was learned: once at the start, then whenever the server had lost our place.",
    ("resource",),
)
WATCH_RESUMES = Family(
    "podwire_watch_resumes_total",
    COUNTER,
    "Times that a watch was opened at a known version: after a list, or where it had stopped.",
    ("resource",),
)
WATCH_FAILURES = Family(
    "podwire_watch_failures_total",
    COUNTER,
    "Times that a list or a watch was cut off or refused and is tried again.",
    ("resource",),
)
WATCH_AGE = Family(
    "podwire_watch_last_event_age_seconds",
    GAUGE,
    "Time since a watch told anything, bookmarks included; API servers send one about every minute.",
    ("resource",),
)

EVENT_TO_KERNEL = Family(
    "podwire_event_to_kernel_seconds",
    HISTOGRAM,
    "Time from the oldest API event of a batch until its consequences were in the kernel.",
    (),
    _SLOW,
)
APPLIES = Family("podwire_datapath_applies_total", COUNTER, "Batches that were brought to the kernel.")
APPLY_ERRORS = Family(
    "podwire_datapath_errors_total", COUNTER, "Changes that the kernel refused while a batch was brought to it."
)
KERNEL_WRITES = Family(
    "podwire_kernel_writes_total",
    COUNTER,
    "Changes sent to the kernel, by interface (rtnetlink, nf_tables, nft).",
    ("kind",),
)
TABLE_CHANGES = Family(
    "podwire_kernel_table_changes_total", COUNTER, "Rows written and removed, by kernel table.", ("table", "change")
)
TABLE_ERRORS = Family(
    "podwire_kernel_table_errors_total", COUNTER, "Reads, writes and removals that the kernel refused.", ("table",)
)
TABLE_READS = Family(
    "podwire_kernel_table_reads_total", COUNTER, "Times that a table was in doubt and was read back.", ("table",)
)
TABLE_REPAIRS = Family(
    "podwire_kernel_table_repairs_total",
    COUNTER,
    "Rows changed because the table, read back, differed from what it should hold; the agent's first start counts too.",
    ("table",),
)

POLICY_EVENT_TO_KERNEL = Family(
    "podwire_policy_event_to_kernel_seconds",
    HISTOGRAM,
    "Time from the oldest API event of a batch that concerns policy until its consequences were in the kernel.",
    (),
    _SLOW,
)
POLICY_ERRORS = Family(
    "podwire_policy_errors_total", COUNTER, "Times that policy could not be brought to the kernel as calculated."
)
POLICIES = Family(
    "podwire_policies", GAUGE, "Policies known, by kind and whether they are honoured as written.", ("kind", "state")
)
POLICY_CLASSES = Family("podwire_policy_classes", GAUGE, "Peer classes: groups of addresses that no rule tells apart.")
POLICY_ADDRESSES = Family(
    "podwire_policy_addresses", GAUGE, "Addresses and ranges of addresses that rules tell apart.", ("kind",)
)
POLICY_TABLES = Family("podwire_policy_tables", GAUGE, "Verdict tables that pods of this node are under.")
POLICY_ROWS = Family("podwire_policy_rows", GAUGE, "Rows of all verdict tables of this node.")
POLICY_ENFORCED = Family(
    "podwire_policy_enforced", GAUGE, "Whether network policy is enforced on this node (1) or not (0)."
)
POLICY_DENIED = Family(
    "podwire_policy_denied_packets_total",
    COUNTER,
    "Packets of new connections that policy denied on this node, by direction as seen from its pod.",
    ("direction",),
)
POLICY_LOGGED = Family("podwire_policy_logged_total", COUNTER, "Packets that Log rules of policies have logged.")
POLICY_STAGED = Family(
    "podwire_policy_staged_pods", GAUGE, "Pods of this node that staged policies would treat otherwise."
)

LOG_EVENTS = Family(
    "podwire_log_events_total",
    COUNTER,
    "Log lines by event and level, as docs/logs.md lists them; repairs and retries are counted here.",
    ("event", "level"),
)

CPU = Family("process_cpu_seconds_total", COUNTER, "User and system CPU time of the agent's process.")
MEMORY = Family("process_resident_memory_bytes", GAUGE, "Resident memory of the agent's process.")
VIRTUAL = Family("process_virtual_memory_bytes", GAUGE, "Virtual memory of the agent's process.")
DESCRIPTORS = Family("process_open_fds", GAUGE, "File descriptors that the agent's process has open.")
DESCRIPTOR_LIMIT = Family("process_max_fds", GAUGE, "File descriptors that it may have open.")
STARTED = Family("process_start_time_seconds", GAUGE, "When the agent's process began, in seconds since 1970.")

ALL: tuple[Family, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Family))
