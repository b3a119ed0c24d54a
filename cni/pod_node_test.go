//go:build node

package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/test/netlab"
)

// traces lists what a pod leaves on the node while it is there.
func (w *world) traces(t *testing.T) (links, rules int) {
	t.Helper()
	check0(t, w.node.Do(func() error {
		all, err := netlinksafe.LinkList()
		if err != nil {
			return err
		}
		for _, l := range all {
			if len(l.Attrs().Name) == 13 && l.Attrs().Name[:2] == linkPrefix {
				links++
			}
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			ours, err := podRules(family, hostnet.PriorityPod)
			if err != nil {
				return err
			}
			rules += len(ours)
		}
		return nil
	}))
	return links, rules
}

func (w *world) wantNothingLeft(t *testing.T) {
	t.Helper()
	if links, rules := w.traces(t); links != 0 || rules != 0 || w.pods.count() != 0 || len(w.addresses.List()) != 0 {
		t.Errorf("left: %d links, %d rules, %d pod entries, %d leases", links, rules, w.pods.count(), len(w.addresses.List()))
	}
}

func TestPodsTalk(t *testing.T) {
	w := newWorld(t)
	a, addrA := w.add(t, "a")
	b, addrB := w.add(t, "b")
	for _, c := range []struct {
		name     string
		from, to *netlab.NetNS
		addr     string
		source   string
	}{
		{"pod to pod", a, b, addrB.String(), addrA.String()},
		{"pod to node", a, w.node, uplinkAddr, addrA.String()},
		{"node to pod", w.node, b, addrB.String(), uplinkAddr},
		{"pod to outside by its ENI", b, w.vpc, outside, addrB.String()},
		{"outside to pod", w.vpc, a, addrA.String(), eniGateway},
	} {
		t.Run(c.name, func(t *testing.T) {
			source, err := talk(t, c.from, c.to, c.addr)
			if err != nil || source.String() != c.source {
				t.Errorf("source %s, want %s (%v)", source, c.source, err)
			}
		})
	}
}

// TestDualStack: a pod with two addresses is reached and reaches others by both, is checked in both, and leaves nothing.
func TestDualStack(t *testing.T) {
	w := newWorld(t)
	w.addresses.dual = true
	const node6 = "fd08::2"
	check0(t, w.node.Do(func() error {
		check0(t, SetSysctl{OnHost, "net/ipv6/conf/all/forwarding", "1", false}.write())
		return withLink("eth0", func(l netlink.Link) error {
			a := address(t, node6+"/64")
			a.Flags = unix.IFA_F_NODAD
			return netlink.AddrAdd(l, a)
		})
	}))
	pods, addrs := map[string]*netlab.NetNS{}, map[string][]string{}
	for _, name := range []string{"a", "b"} {
		pods[name] = must[*netlab.NetNS](t)(w.lab.NetNS(name))
		check0(t, pods[name].Do(SetSysctl{InPod, "net/ipv6/conf/all/disable_ipv6", "1", false}.write)) // as some runtimes do
		var result types100.Result
		check0(t, json.Unmarshal(w.mustServe(t, request("ADD", name, pods[name])), &result))
		if len(result.IPs) != 2 || len(result.Routes) != 2 {
			t.Fatalf("result has %d addresses and %d routes", len(result.IPs), len(result.Routes))
		}
		for _, ip := range result.IPs {
			addrs[name] = append(addrs[name], ip.Address.IP.String())
		}
	}
	for i, node := range []string{uplinkAddr, node6} {
		for _, c := range []struct {
			from, to     *netlab.NetNS
			addr, source string
		}{
			{pods["a"], pods["b"], addrs["b"][i], addrs["a"][i]},
			{pods["a"], w.node, node, addrs["a"][i]},
			{w.node, pods["b"], addrs["b"][i], node},
		} {
			if source, err := talk(t, c.from, c.to, c.addr); err != nil || source.String() != c.source {
				t.Errorf("%s to %s: source %s (%v)", c.source, c.addr, source, err)
			}
		}
	}
	wired := must[[]Leased](t)(Wired(w.node.Path(), w.records))
	slices.SortFunc(wired, func(x, y Leased) int { return strings.Compare(x.Attachment.ContainerID, y.Attachment.ContainerID) })
	if len(wired) != 2 || wired[1].Attachment.Key != (Key{"net", "b", "eth0"}) || fmt.Sprint(wired[1].Lease.Addrs) != fmt.Sprint(addrs["b"]) {
		t.Errorf("the node shows %v, want a and b with %v", wired, addrs)
	}
	good := request("CHECK", "a", pods["a"])
	good.Config = config("1.1.0", fmt.Sprintf(`,"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"%s/32"},{"address":"%s/128"}]}`, addrs["a"][0], addrs["a"][1]))
	w.mustServe(t, good)
	check0(t, w.node.Do(func() error {
		return deleteRules(DeleteRules{netip.MustParseAddr(addrs["a"][1]), hostnet.PriorityPod})
	}))
	w.mustFail(t, good)
	w.mustServe(t, request("DEL", "a", pods["a"]))
	check0(t, w.addresses.Release(t.Context(), Key{"net", "b", "eth0"})) // b is found by its routes
	w.mustServe(t, request("DEL", "b", nil))
	w.wantNothingLeft(t)
}

func TestResult(t *testing.T) {
	w := newWorld(t)
	pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
	raw := w.mustServe(t, request("ADD", "a", pod))
	var result types100.Result
	check0(t, json.Unmarshal(raw, &result))
	if result.CNIVersion != "1.1.0" || len(result.Interfaces) != 2 || *result.IPs[0].Interface != 1 {
		t.Fatalf("result is %s", raw)
	}
	inside := result.Interfaces[1]
	check0(t, pod.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil && (l.Attrs().HardwareAddr.String() != inside.Mac || l.Attrs().MTU != inside.Mtu || inside.Mtu != 1400) {
			t.Errorf("eth0 is %s mtu %d, result says %s mtu %d", l.Attrs().HardwareAddr, l.Attrs().MTU, inside.Mac, inside.Mtu)
		}
		return err
	}))
	if inside.Sandbox != pod.Path() || result.Interfaces[0].Sandbox != "" {
		t.Errorf("sandboxes are %q and %q", result.Interfaces[0].Sandbox, inside.Sandbox)
	}
}

func TestDelTwiceAndWithoutNamespace(t *testing.T) {
	w := newWorld(t)
	a, _ := w.add(t, "a")
	_, _ = w.add(t, "b")
	w.mustServe(t, request("DEL", "a", a))
	if links, rules := w.traces(t); links != 1 || rules != 1 || w.pods.count() != 1 {
		t.Errorf("after one DEL of two: %d links, %d rules, %d entries", links, rules, w.pods.count())
	}
	w.mustServe(t, request("DEL", "a", a))
	w.mustServe(t, request("DEL", "a", nil))
	w.mustServe(t, request("DEL", "b", nil))
	w.mustServe(t, request("DEL", "b", nil))
	w.mustServe(t, request("DEL", "never-seen", nil))
	w.wantNothingLeft(t)
}

func TestDelAfterNamespaceVanished(t *testing.T) {
	w := newWorld(t)
	a, _ := w.add(t, "a")
	check0(t, a.Close())
	gone := request("DEL", "a", nil)
	gone.NetNS = a.Path()
	w.mustServe(t, gone)
	w.wantNothingLeft(t)
}

func TestDelWithoutLease(t *testing.T) {
	w := newWorld(t)
	a, _ := w.add(t, "a")
	check0(t, w.addresses.Release(t.Context(), Key{"net", "a", "eth0"}))
	w.mustServe(t, request("DEL", "a", a))
	w.wantNothingLeft(t)
}

func TestAddRefusesExistingInterface(t *testing.T) {
	w := newWorld(t)
	a, addr := w.add(t, "a")
	if code := w.mustFail(t, request("ADD", "a", a)); code != 4 {
		t.Errorf("code is %d, want 4", code)
	}
	if source, err := talk(t, a, w.node, uplinkAddr); err != nil || source != addr {
		t.Errorf("the pod was harmed: source %s, %v", source, err)
	}
}

func TestAddRefusesNodeNamespace(t *testing.T) {
	w := newWorld(t)
	if code := w.mustFail(t, request("ADD", "a", w.node)); code != 8 {
		t.Errorf("code is %d, want 8", code)
	}
	w.wantNothingLeft(t)
}

func TestAddRollsBack(t *testing.T) {
	w := newWorld(t)
	pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
	w.pods.fail = fmt.Errorf("map is full")
	w.mustFail(t, request("ADD", "a", pod))
	w.wantNothingLeft(t)
	check0(t, pod.Do(func() error {
		if _, err := netlink.LinkByName("eth0"); !isNoLink(err) {
			return errors.Join(errors.New("eth0 is still there"), err)
		}
		return nil
	}))
	w.pods.fail, w.addresses.fail = nil, fmt.Errorf("none free")
	if code := w.mustFail(t, request("ADD", "a", pod)); code != 11 {
		t.Errorf("code without an address is %d, want 11", code)
	}
	w.addresses.fail = nil
	w.mustServe(t, request("ADD", "a", pod))
}

func TestCheckFindsWhatIsBroken(t *testing.T) {
	w := newWorld(t)
	a, addr := w.add(t, "a")
	k := Key{"net", "a", "eth0"}
	good := request("CHECK", "a", a)
	good.Config = config("1.1.0", fmt.Sprintf(`,"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"%s/32"}]}`, addr))
	w.mustServe(t, good)
	inPod := func(f func(l netlink.Link) error) func() error {
		return func() error { return a.Do(func() error { return withLink("eth0", f) }) }
	}
	onNode := func(f func(l netlink.Link) error) func() error {
		return func() error { return w.node.Do(func() error { return withLink(k.HostLink(), f) }) }
	}
	lease, _ := w.addresses.Lookup(k)
	plan := Plan(Wiring{Key: k, Datapath: Veth, Lease: lease})
	repair := func() error {
		pod, err := openPod(a.Path(), w.server.host)
		if err != nil {
			return err
		}
		defer pod.Close()
		return namespaces{w.server.host, pod}.apply(plan[1:])
	}
	for name, breakIt := range map[string]func() error{
		"pod route": inPod(func(l netlink.Link) error {
			return netlink.RouteDel(AddRoute{Side: InPod, Link: "eth0", Dst: everywhere(addr), Gateway: gateway(addr)}.route(l))
		}),
		"pod address": inPod(func(l netlink.Link) error {
			return netlink.AddrDel(l, address(t, addr.String()+"/32"))
		}),
		"pod link": inPod(netlink.LinkSetDown),
		"pod neighbour": inPod(func(l netlink.Link) error {
			return netlink.NeighDel(AddNeighbour{InPod, "eth0", gateway(addr), nil}.neighbour(l))
		}),
		"host route": onNode(func(l netlink.Link) error {
			return netlink.RouteDel(AddRoute{Side: OnHost, Link: k.HostLink(), Dst: alone(addr)}.route(l))
		}),
		"host alias": onNode(func(l netlink.Link) error { return netlink.LinkSetAlias(l, "other") }),
		"host link":  onNode(netlink.LinkSetDown),
		"sysctl": func() error {
			return w.node.Do(SetSysctl{OnHost, "net/ipv4/conf/" + k.HostLink() + "/rp_filter", "1", false}.write)
		},
		"rule": func() error {
			return w.node.Do(func() error { return deleteRules(DeleteRules{addr, hostnet.PriorityPod}) })
		},
	} {
		check0(t, breakIt())
		if code := w.mustFail(t, good); code != codeBroken {
			t.Errorf("%s: code is %d, want %d", name, code, codeBroken)
		}
		check0(t, repair())
		check0(t, onNode(func(l netlink.Link) error { return netlink.LinkSetAlias(l, k.Alias()) })())
		w.mustServe(t, good)
	}
	check0(t, w.pods.Remove(t.Context(), PodEntry{Addrs: []netip.Addr{addr}}))
	w.mustFail(t, good)
}

func TestParallelAdds(t *testing.T) {
	w := newWorld(t)
	const n = 12
	pods := make([]*netlab.NetNS, n)
	for i := range pods {
		pods[i] = must[*netlab.NetNS](t)(w.lab.NetNS(fmt.Sprintf("p%d", i)))
	}
	answers := make([]agentapi.CNIResponse, n)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range pods {
		wg.Go(func() { answers[i] = w.server.Handle(t.Context(), request("ADD", fmt.Sprintf("p%d", i), pods[i])) })
	}
	wg.Wait()
	t.Logf("%d ADDs in %s", n, time.Since(start))
	seen := map[netip.Addr]bool{}
	for i, answer := range answers {
		if answer.Error != nil {
			t.Fatalf("pod %d: %v", i, answer.Error)
		}
		seen[addressIn(t, answer.Result)] = true
	}
	if len(seen) != n {
		t.Errorf("%d different addresses for %d pods", len(seen), n)
	}
	if _, err := talk(t, pods[0], pods[n-1], addressIn(t, answers[n-1].Result).String()); err != nil {
		t.Error(err)
	}
	// The same container at the same time: one verb follows the other, and the interface is made once.
	twin := must[*netlab.NetNS](t)(w.lab.NetNS("twin"))
	var failed sync.Map
	for i := range 2 {
		wg.Go(func() {
			if w.server.Handle(t.Context(), request("ADD", "twin", twin)).Error != nil {
				failed.Store(i, true)
			}
		})
	}
	wg.Wait()
	failures := 0
	failed.Range(func(any, any) bool { failures++; return true })
	if failures != 1 {
		t.Errorf("%d of 2 ADDs of one container failed, want 1", failures)
	}
}

// TestCollectorPutsBack: what a network manager flushes comes back, in both families, and the pod reaches its VPC again.
func TestCollectorPutsBack(t *testing.T) {
	w := newWorld(t)
	w.addresses.dual = true
	pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
	w.mustServe(t, request("ADD", "a", pod))
	k := Key{"net", "a", "eth0"}
	lease, _ := w.addresses.Lookup(k)
	check0(t, w.node.Do(func() error {
		for _, addr := range lease.Addrs {
			check0(t, deleteRules(DeleteRules{addr, hostnet.PriorityPod}))
			check0(t, withLink(k.HostLink(), func(l netlink.Link) error {
				return netlink.RouteDel(AddRoute{Side: OnHost, Link: k.HostLink(), Dst: alone(addr)}.route(l))
			}))
		}
		return nil
	}))
	if _, err := talk(t, pod, w.vpc, outside); err == nil {
		t.Fatal("the pod needs neither rule nor route")
	}
	check0(t, NewCollector(w.server, 0).Sweep(t.Context(), time.Now()))
	if source, err := talk(t, pod, w.vpc, outside); err != nil || source != lease.Addrs[0] {
		t.Errorf("source %s, want %s (%v)", source, lease.Addrs[0], err)
	}
	state := must[hostState](t)(readHost(w.server.host))
	if left := lost(must[[]attached](t)(w.server.attached()), state); len(left) != 0 {
		t.Errorf("still lost: %v", left)
	}
}

func TestGCAndCollector(t *testing.T) {
	w := newWorld(t)
	a, _ := w.add(t, "a")
	_, _ = w.add(t, "b")
	r := request("GC", "", nil)
	w.mustFail(t, r) // no list is not an empty list
	r.Config = config("1.1.0", `,"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]`)
	w.mustServe(t, r)
	if links, rules := w.traces(t); links != 1 || rules != 1 || w.pods.count() != 1 {
		t.Errorf("after GC: %d links, %d rules, %d entries", links, rules, w.pods.count())
	}
	check0(t, a.Close()) // the pod vanishes without a DEL
	deadline := time.Now().Add(5 * time.Second)
	for links, _ := w.traces(t); links != 0; links, _ = w.traces(t) {
		if time.Now().After(deadline) {
			t.Fatal("the link did not go with the namespace")
		}
		time.Sleep(10 * time.Millisecond)
	}
	stray := AddRule{netip.MustParseAddr("10.9.0.99"), hostnet.PriorityPod, 1001}
	twin := AddRule{stray.Src, hostnet.PriorityPod, 1002}
	check0(t, w.node.Do(func() error { return errors.Join(netlink.RuleAdd(stray.rule()), netlink.RuleAdd(twin.rule())) }))
	collector := NewCollector(w.server, 0)
	now := time.Now()
	for _, later := range []time.Duration{0, secondLook - 1} {
		check0(t, collector.Sweep(t.Context(), now.Add(later)))
		if len(w.addresses.List()) != 1 {
			t.Fatalf("collected after %s", later)
		}
	}
	check0(t, collector.Sweep(t.Context(), now.Add(secondLook)))
	w.wantNothingLeft(t)
}
