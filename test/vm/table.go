package main

import (
	"regexp"
	"slices"
	"strings"
)

// modules are loaded in every guest: what the datapaths and their tests use and these kernels do not have built in.
var modules = []string{
	"ipvlan", "dummy", "veth", "bridge", "8021q", "ifb", "vrf", "tun", "overlay",
	"sch_fq", "sch_tbf", "sch_ingress", "sch_netem", "sch_fq_codel", "sch_prio", "sch_htb",
	"cls_bpf", "cls_u32", "cls_flower", "cls_matchall", "act_mirred", "act_bpf", "act_police", "act_skbedit", "act_gact",
	"sctp", "udp_diag",
	"ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_sh",
	"nf_tables", "nf_conntrack", "nf_conntrack_netlink", "nf_nat", "nft_chain_nat", "nft_masq", "nft_nat", "nft_ct", "nft_redir",
	"nft_reject", "nft_reject_inet", "nft_limit", "nft_log", "nft_fib_inet", "nft_compat", "xt_conntrack", "xt_mark",
}

// A lane is what runs in the guests and what it proves.
type lane struct {
	packages []testPackage
	features []feature
}

// A testPackage is a package of which tests run in the guests: in the lane those that a feature names, with -pkg all. What
// does not depend on the kernel is for the other lanes.
type testPackage struct {
	dir     string // below the module's root
	seconds int    // for all its tests on one kernel
	without []without
	// needsPrograms says that the tests want nearpath, nearpath-cni and podapp, in the directory that NEARPATH_BIN names.
	needsPrograms bool
}

// A without leaves tests out, on some kernels or on all, and says why.
type without struct {
	tests   string   // regular expression that matches whole names of top-level tests
	kernels []string // none: all
	why     string
}

var packages = []testPackage{
	{dir: "test/vm/parts", seconds: 60},
	{dir: "bpf", seconds: 1200},
	{dir: "cni", seconds: 300, without: []without{
		{tests: "TestPlugin.*", why: "builds the plugin, and the guests have no Go"},
	}},
	{dir: "internal/hostnet", seconds: 120},
	{dir: "test/matrix", seconds: 600, needsPrograms: true},
}

// tests returns, for every package, the expression that matches the tests of its rows.
func (l lane) tests() map[string]string {
	names := map[string][]string{}
	for _, f := range l.features {
		for _, test := range f.tests {
			dir, name, _ := strings.Cut(test, ".")
			if !slices.Contains(names[dir], name) {
				names[dir] = append(names[dir], name)
			}
		}
	}
	only := map[string]string{}
	for dir, tests := range names {
		only[dir] = "^(" + strings.Join(tests, "|") + ")$"
	}
	return only
}

// appliesTo says whether the tests are left out on a kernel.
func (w without) appliesTo(kernel string) bool {
	return len(w.kernels) == 0 || slices.Contains(w.kernels, kernel)
}

// skip is the expression for -test.skip on a kernel, "" for none.
func (p testPackage) skip(kernel string) string {
	var all []string
	for _, w := range p.without {
		if w.appliesTo(kernel) {
			all = append(all, "^("+w.tests+")$")
		}
	}
	return strings.Join(all, "|")
}

// whyNot returns why a test is left out on a kernel.
func (p testPackage) whyNot(test, kernel string) (string, bool) {
	for _, w := range p.without {
		if w.appliesTo(kernel) && regexp.MustCompile("^("+w.tests+")$").MatchString(test) {
			return w.why, true
		}
	}
	return "", false
}

// A feature is a row of the table at the end. It works on a kernel when all its tests pass there.
type feature struct {
	name  string
	tests []string // as <package's dir>.<top-level test>
}

// Each of bpf's tests loads all programs, which takes an emulated processor ten to twenty seconds. What kernels differ in
// is here; what a row of Services means does not depend on them, and -pkg ./bpf tries all of it.
var features = []feature{
	{"programs load", []string{"bpf.TestConnectTCP", "bpf.TestFromOutside", "bpf.TestSourceGuard"}},
	{"socket hooks: TCP", []string{"bpf.TestConnectTCP", "bpf.TestRejectWithoutEndpoints"}},
	{"socket hooks: UDP", []string{"bpf.TestUDP", "bpf.TestMappedUDP"}},
	{"UDP sockets of backends that are gone are ended", []string{"bpf.TestReaper", "bpf.TestReaperApp"}},
	{"session affinity", []string{"bpf.TestAffinityBig"}},
	{"source ranges and verdicts at sockets", []string{"bpf.TestSourceRangesIPv6", "bpf.TestVerdicts"}},
	{"Services change under load", []string{"bpf.TestRestart"}},
	{"programs on links", []string{"bpf.TestAttachLink", "bpf.TestRemove"}},
	{"NodePort and hostPort from outside", []string{"bpf.TestFromOutside"}},
	{"Services over SCTP", []string{"bpf.TestServicesOverSCTP"}},
	{"Services by packets", []string{"bpf.TestPodByPackets", "bpf.TestPodByPacketsExclusive"}},
	{"refusals by packets", []string{"bpf.TestRefusalFrames"}},
	{"ICMP errors of translated flows", []string{"bpf.TestErrorsOutside"}},
	{"ways between pods of a node", []string{"bpf.TestWays"}},
	{"node DNS", []string{"bpf.TestNodeDNS", "bpf.TestNodeDNSAgentKilled", "bpf.TestPodsDNS", "bpf.TestPodsDNSExclusive", "bpf.TestOwnDNS"}},
	{"DNS answers of the kernel", []string{"bpf.TestAnswersAgree", "bpf.TestAnswersLive", "bpf.TestAnswersIPVlan", "bpf.TestChangedIsNotAbsent"}},
	{"policies on veth", []string{"bpf.TestPolicyBriefly", "bpf.TestPolicyCutsFlows", "bpf.TestPolicyEvents"}},
	{"raw sockets of pods with programs of their own", []string{"bpf.TestGuardedSockets", "bpf.TestForgedByIPVlan"}},
	{"policy in pods' namespaces", []string{"bpf.TestPolicyIPVlan", "bpf.TestPolicyIPVlanOwnNode", "bpf.TestPolicyExclusive"}},
	{"netns cookie", []string{"test/vm/parts.TestNetNSCookie", "bpf.TestCookieByProgram"}},
	{"node network", []string{"internal/hostnet.TestHostIsBroughtIntoStateAndKept", "internal/hostnet.TestWaitersShareComparisons"}},
	{"SNAT of the node", []string{"internal/hostnet.TestNodeSNATByFamily", "internal/hostnet.TestNodeSNATIsKept"}},
	{"pods on veth, ipvlan and ENIs of their own", []string{"cni.TestPodsTalk", "cni.TestDelTwiceAndWithoutNamespace", "cni.TestDelAfterNamespaceVanished"}},
	{"pods are checked and put back", []string{"cni.TestCheckFindsWhatIsBroken", "cni.TestCollectorPutsBack", "cni.TestPodsFollowTheNode"}},
	{"bandwidth limits", []string{"cni.TestLimits", "cni.TestLimitsOnIPVlan", "cni.TestLimitsWhileTrafficFlows", "cni.TestLimitsOfAPod"}},
	{"ENIs with ipvlan", []string{
		"internal/hostnet.TestIPVlanParent", "internal/hostnet.TestIPVlanIsKept",
		"internal/hostnet.TestIPVlanCompanionFollowsTheNode", "internal/hostnet.TestIPVlanAcrossRestart",
	}},
	{"who can talk to whom", []string{"test/matrix.TestMatrix"}},
	{"an ipvlan port that others switched to l3s is put back", []string{"test/matrix.TestSelfHeal"}},
	{"ipvlan", []string{"test/vm/parts.TestIPVlan"}},
	{"fq", []string{"test/vm/parts.TestFQ"}},
	{"SCTP", []string{"test/vm/parts.TestSCTP"}},
	{"IPVS", []string{"test/vm/parts.TestIPVS"}},
}
