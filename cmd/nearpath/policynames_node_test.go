//go:build node

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/agentapi"
)

const (
	policyUpstream = "192.0.2.1" // of startPolicyNode
	// oldName is answered for a second.
	oldName   = "old.example.com."
	policyOld = `apiVersion: v1
kind: Pod
metadata: {name: old, namespace: shop, labels: {app: old}}
spec: {nodeName: node, containers: [{name: c}]}
`
)

// namesPolicy lets web ask the node's DNS, and reach databases by these names only.
func namesPolicy(names ...string) string {
	return fmt.Sprintf(`apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: names}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  egress:
  - {name: dns, action: Accept, to: [{networks: [169.254.20.10/32]}], protocols: [{udp: {destinationPort: {number: 53}}}]}
  - {name: database, action: Accept, to: [{domainNames: %s}], protocols: [{tcp: {destinationPort: {number: 5432}}}]}
  - {name: rest, action: Deny, to: [{networks: [0.0.0.0/0, "::/0"]}]}
`, strings.ReplaceAll(fmt.Sprintf("%q", names), " ", ", "))
}

// serveNames answers at the node's upstream: names of example.com and example.org are those of pods, by way of another name, and
// old.example.com for a second only.
func (n *policyNode) serveNames(t *testing.T) {
	t.Helper()
	ns := n.node.NetNS()
	if out, err := ns.Command(t.Context(), "ip", "address", "add", policyUpstream+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	at := net.JoinHostPort(policyUpstream, "53")
	var udp net.PacketConn
	var tcp net.Listener
	must(t, ns.Do(func() (err error) {
		if udp, err = net.ListenPacket("udp", at); err == nil {
			tcp, err = net.Listen("tcp", at)
		}
		return err
	}))
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: n}, {Listener: tcp, Handler: n}} {
		started, ended := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(ended)
			_ = s.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			_ = s.Shutdown()
			<-ended
		})
	}
}

// ServeDNS implements dns.Handler.
func (n *policyNode) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	m.RecursionAvailable = true
	if q := r.Question[0]; q.Qtype == dns.TypeA {
		pod, ttl := "db", 300
		switch {
		case q.Name == oldName:
			pod, ttl = "old", 1
		case dns.IsSubDomain("example.org.", q.Name):
			pod = "api"
		}
		for _, text := range []string{q.Name + " 300 IN CNAME edge.example.net.", fmt.Sprintf("edge.example.net. %d IN A %s", ttl, n.pods[pod].addr)} {
			rr, _ := dns.NewRR(text)
			m.Answer = append(m.Answer, rr)
		}
	}
	_ = w.WriteMsg(m) // who gets nothing asks again
}

// resolve asks the node's DNS in a pod.
func (n *policyNode) resolve(t *testing.T, pod, name string) (addr netip.Addr) {
	t.Helper()
	awaitPolicy(t, "an answer for "+name, func() error {
		return n.pods[pod].ns.Do(func() error {
			m, _, err := (&dns.Client{Timeout: policyPatience / 10}).Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), "169.254.20.10:53")
			if err != nil {
				return err
			}
			for _, rr := range m.Answer {
				if a, ok := rr.(*dns.A); ok {
					addr, _ = netip.AddrFromSlice(a.A.To4())
				}
			}
			if !addr.IsValid() {
				return errors.New(dns.RcodeToString[m.Rcode])
			}
			return nil
		})
	})
	return addr
}

// TestPoliciesFollowNames: a pod reaches what a name led to that its policy has, as soon as it has the answer and whoever gave
// it, and nothing else; also without an agent, and after another one has come; and for as long as the answer says.
func TestPoliciesFollowNames(t *testing.T) {
	n := startPolicyNode(t)
	n.apply(t, "pods.yaml", policyPods+"---\n"+policyDB+"---\n"+policyOld)
	n.apply(t, "policy.yaml", namesPolicy("*.example.com"))
	n.startAgent(t)
	for _, pod := range []string{"api", "web", "db", "old"} {
		must(t, n.add(t.Context(), t, pod))
	}
	n.serveNames(t)
	before := map[string]bool{"web": false, "api": true, "": true}
	n.wantReach(t, "before anybody has resolved a name", before)
	n.resolve(t, "web", "www.example.org.")
	n.resolve(t, "web", "example.com.")
	n.wantReach(t, "by other names", before)
	n.firstByName(t, "db.example.com.", "db")
	n.firstByName(t, oldName, "old")

	// Whoever is killed has let an answer out a moment before.
	n.agent.Kill()
	n.wantReach(t, "without an agent", map[string]bool{"web": true})
	n.startAgent(t)
	n.wantReach(t, "after another agent has come", map[string]bool{"web": true})

	// What the kernel answers is seen by nobody: it does not when a policy comes that has the name.
	awaitPolicy(t, "the kernel to answer www.example.org", func() error {
		n.resolve(t, "web", "www.example.org.")
		out, err := execute(t, "get", "dns", "--pins", n.node.MachinePath("/sys/fs/bpf/nearpath"), "--socket", n.node.MachinePath(agentapi.DefaultSocket))
		if err == nil && !strings.Contains(out, "www.example.org.") {
			err = errors.New(out)
		}
		return err
	})
	if n.dials(t, "web", "api", deniedAfter) {
		t.Error("web reaches what no policy names")
	}
	n.apply(t, "policy.yaml", namesPolicy("*.example.com", "www.example.org"))
	awaitPolicy(t, "an answer that policies see", func() error {
		n.resolve(t, "web", "www.example.org.")
		if !n.dials(t, "web", "api", deniedAfter) {
			return errors.New("web does not reach what it resolved")
		}
		return nil
	})

	// The kernel is asked, and not by a connection: there is no end to an address that has one.
	awaitPolicy(t, "the end of an address", func() error {
		var a policyAnswer
		must(t, n.api().Post(t.Context(), explainPolicyPath, policyRequest{From: "shop/web", To: "shop/old", Protocol: unix.IPPROTO_TCP, Port: dbPort}, &a))
		if a.Egress.Allowed || a.Egress.Kernel.Allowed {
			return errors.New("it is allowed")
		}
		return nil
	})
	if n.dials(t, "web", "old", deniedAfter) {
		t.Error("web reaches what it resolved long ago")
	}
	n.wantReach(t, "by an answer that counts", map[string]bool{"web": true})
	n.agent.Kill()
}

// firstByName resolves a name, and has no packet dropped on the way to where it leads.
func (n *policyNode) firstByName(t *testing.T, name, pod string) {
	t.Helper()
	denied := n.drops(t)
	if got := n.resolve(t, "web", name); got != n.pods[pod].addr {
		t.Fatalf("%s is %v", name, got)
	}
	if !n.dials(t, "web", pod, policyPatience) {
		t.Errorf("web does not reach %s", name)
	}
	if got := n.drops(t); got != denied {
		t.Errorf("%d packets were dropped on the way to %s: the client had the answer first", got-denied, name)
	}
}

// drops counts what policies have dropped of what web sends.
func (n *policyNode) drops(t *testing.T) uint64 {
	t.Helper()
	var view dropsView
	must(t, n.api().Post(t.Context(), dropsPath, dropsRequest{}, &view))
	var all uint64
	for _, d := range view.Drops {
		if d.Pod == "shop/web" {
			all++
		}
	}
	return all
}
