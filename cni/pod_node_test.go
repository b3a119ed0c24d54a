//go:build node

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/test/netlab"
)

// traces counts the links that a pod has on the node while it is there, and the node's routes to pods.
func (w *world) traces(t *testing.T) (links, routes int) {
	t.Helper()
	check0(t, w.node.Do(func() error {
		all, err := netlinksafe.LinkList()
		if err != nil {
			return err
		}
		for _, l := range all {
			if _, ours := keyOf(l.Attrs().Alias); ours || l.Attrs().Alias == "" && len(l.Attrs().Name) == 13 && l.Attrs().Name[:2] == linkPrefix {
				links++
			}
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			ours, err := podRoutes(family)
			if err != nil {
				return err
			}
			routes += len(ours)
		}
		return nil
	}))
	return links, routes
}

func (w *world) wantNothingLeft(t *testing.T) {
	t.Helper()
	records, err := w.server.records.list()
	check0(t, err)
	if links, routes := w.traces(t); links+routes+w.pods.count()+len(w.addresses.List())+len(records) != 0 {
		t.Errorf("left: %d links, %d routes, %d pod entries, %d leases, %d records", links, routes, w.pods.count(), len(w.addresses.List()), len(records))
	}
	w.wantENIsBack(t)
}

// wantENIsBack: every ENI is on the node, and those that are no pod's are as one that was just attached.
func (w *world) wantENIsBack(t *testing.T) {
	t.Helper()
	check0(t, w.node.Do(func() error {
		for i := 1; i <= wholeENIs; i++ {
			hardware := must[net.HardwareAddr](t)(net.ParseMAC(mac(i)))
			l := must[netlink.Link](t)(findENI(hardware, 0))
			if l == nil {
				t.Errorf("ENI %s is not on the node", hardware)
				continue
			}
			addrs := must[[]netlink.Addr](t)(netlinksafe.AddrList(l, netlink.FAMILY_ALL))
			if a := l.Attrs(); a.Flags&net.FlagUp != 0 || a.Alias != "" || a.Name == "eth0" || len(addrs) > 0 {
				t.Errorf("ENI %s is back as %s, up %v, alias %q, addresses %v", hardware, a.Name, a.Flags&net.FlagUp != 0, a.Alias, addrs)
			}
		}
		return nil
	}))
}

// TestPodsTalk: pods of every datapath reach those of every other, the node, its DNS and the world, and are reached, in
// both families, always with their own addresses.
func TestPodsTalk(t *testing.T) {
	w := newWorld(t)
	w.addresses.dual = true
	type pod struct {
		*netlab.NetNS
		addrs    []netip.Addr
		datapath Datapath
	}
	var pods []pod
	for i, datapath := range slices.Concat(onThisKernel, onThisKernel) {
		name := fmt.Sprintf("%s%d", datapath, i)
		netns := must[*netlab.NetNS](t)(w.lab.NetNS(name))
		check0(t, netns.Do(SetSysctl{InPod, "net/ipv6/conf/all/disable_ipv6", "1", false}.write)) // as some runtimes do
		pods = append(pods, pod{netns, addressesIn(t, w.mustServe(t, on(datapath, request("ADD", name, netns)))), datapath})
	}
	node := []netip.Addr{netip.MustParseAddr(uplinkAddr), netip.MustParseAddr(uplinkAddr6)}
	world := []netip.Addr{netip.MustParseAddr(outside), netip.MustParseAddr(outside6)}
	try := func(what string, from, to *netlab.NetNS, addr, source netip.Addr) {
		t.Helper()
		if got, err := talk(t, from, to, addr.String()); err != nil || got != source {
			t.Errorf("%s: source %s, want %s (%v)", what, got, source, err)
		}
	}
	for _, p := range pods {
		for i, own := range p.addrs {
			for _, other := range pods {
				if other.NetNS != p.NetNS {
					try(fmt.Sprintf("%s to %s, %s", p.Name(), other.Name(), own), p.NetNS, other.NetNS, other.addrs[i], own)
				}
			}
			try(p.Name()+" to node", p.NetNS, w.node, node[i], own)
			try("node to "+p.Name(), w.node, p.NetNS, own, node[i])
			try(p.Name()+" to outside", p.NetNS, w.vpc, world[i], own)
			if _, err := talk(t, w.vpc, p.NetNS, own.String()); err != nil {
				t.Errorf("outside to %s: %v", p.Name(), err)
			}
		}
		if p.datapath == Veth { // others take the program of their ENI
			try(p.Name()+" to the node's DNS", p.NetNS, w.node, netip.MustParseAddr(nodeDNS), p.addrs[0])
		}
	}
}

func TestResult(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
			raw := w.mustServe(t, on(datapath, request("ADD", "a", pod)))
			var result types100.Result
			check0(t, json.Unmarshal(raw, &result))
			if result.CNIVersion != "1.1.0" || len(result.IPs) != 1 || len(result.Routes) != 1 {
				t.Fatalf("result is %s", raw)
			}
			own := result.Interfaces[*result.IPs[0].Interface]
			if own.Name != "eth0" || own.Mtu != uplinkMTU {
				t.Errorf("address is on %+v", own)
			}
			for _, i := range result.Interfaces {
				netns, want := w.node, ""
				if i.Sandbox != "" {
					netns, want = pod, pod.Path()
				}
				check0(t, netns.Do(func() error {
					return withLink(i.Name, func(l netlink.Link) error {
						if l.Attrs().HardwareAddr.String() != i.Mac || l.Attrs().MTU != i.Mtu || i.Sandbox != want {
							t.Errorf("%s is %s mtu %d, result says %+v", i.Name, l.Attrs().HardwareAddr, l.Attrs().MTU, i)
						}
						return nil
					})
				}))
			}
		})
	}
}

func TestDelTwiceAndWithoutNamespace(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			a, _ := w.addOn(t, datapath, "a")
			_, _ = w.addOn(t, datapath, "b")
			w.mustServe(t, request("DEL", "a", a))
			if _, routes := w.traces(t); routes != 1 || w.pods.count() != 1 {
				t.Errorf("after one DEL of two: %d routes, %d entries", routes, w.pods.count())
			}
			w.mustServe(t, request("DEL", "a", a))
			w.mustServe(t, request("DEL", "a", nil))
			for range 3 {
				w.mustServe(t, request("DEL", "b", nil)) // the record knows the namespace
			}
			w.mustServe(t, request("DEL", "never-seen", nil))
			w.wantNothingLeft(t)
			// The same pod again, and its namespace is as it was.
			if again := addressesIn(t, w.mustServe(t, on(datapath, request("ADD", "a", a)))); len(again) != 1 {
				t.Errorf("added again with %v", again)
			}
		})
	}
}

func TestDelAfterNamespaceVanished(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			a, _ := w.addOn(t, datapath, "a")
			check0(t, a.Close())
			gone := request("DEL", "a", nil)
			gone.NetNS = a.Path()
			w.mustServe(t, gone)
			w.mustServe(t, gone)
			w.awaitENIs(t)
			check0(t, NewCollector(w.server, 0).Sweep(t.Context(), time.Now()))
			w.wantNothingLeft(t)
		})
	}
}

// A deletion that comes late must not harm the pod that has the address or the name by then.
func TestDelLeavesSuccessorsAlone(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			a, addr := w.addOn(t, datapath, "a")
			old, known, err := w.server.records.read(Key{"net", "a", "eth0"})
			if !known || err != nil {
				t.Fatalf("no record: %v", err)
			}
			check0(t, a.Close())
			w.mustServe(t, request("DEL", "a", nil))
			w.awaitENIs(t)
			check0(t, NewCollector(w.server, 0).Sweep(t.Context(), time.Now()))
			w.addresses.next = addr // of a shared ENI; a whole one has the same address anyway
			successor, same := w.addOn(t, datapath, "b")
			if same != addr {
				t.Fatalf("the successor has %s, not %s", same, addr)
			}
			w.mustServe(t, request("DEL", "a", nil))
			// Another namespace at the path of the former one.
			check0(t, w.server.records.write(old))
			w.mustServe(t, request("DEL", "a", must[*netlab.NetNS](t)(w.lab.NetNS("a"))))
			if datapath == Veth {
				if _, err := talk(t, w.node, successor, addr.String()); err != nil {
					t.Errorf("the successor was harmed: %v", err)
				}
			}
		})
	}
}

func TestDelWithoutLease(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			a, _ := w.addOn(t, datapath, "a")
			check0(t, w.addresses.Release(t.Context(), Key{"net", "a", "eth0"}))
			w.mustServe(t, request("DEL", "a", a))
			w.wantNothingLeft(t)
		})
	}
}

// A record that cannot be read is as none: a pod of veth and one of ipvlan are found by the key, a whole ENI by the lease.
func TestDelWithBrokenRecord(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			a, _ := w.addOn(t, datapath, "a")
			breakRecord(t, w.server.records, Key{"net", "a", "eth0"})
			w.mustServe(t, request("DEL", "a", a))
			w.wantNothingLeft(t)
			check0(t, a.Do(func() error {
				if _, err := netlink.LinkByName("eth0"); !isNoLink(err) {
					return errors.Join(errors.New("eth0 is still there"), err)
				}
				return nil
			}))
		})
	}
}

func TestAddRefusesExistingInterface(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			a, addr := w.addOn(t, datapath, "a")
			if code := w.mustFail(t, on(datapath, request("ADD", "a", a))); code != 4 {
				t.Errorf("code is %d, want 4", code)
			}
			if source, err := talk(t, a, w.node, uplinkAddr); err != nil || source != addr {
				t.Errorf("the pod was harmed: source %s, %v", source, err)
			}
		})
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
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
			add := on(datapath, request("ADD", "a", pod))
			w.pods.fail = fmt.Errorf("map is full")
			w.mustFail(t, add)
			w.wantNothingLeft(t)
			check0(t, pod.Do(func() error {
				for _, name := range []string{"eth0", sideLink} {
					if _, err := netlink.LinkByName(name); !isNoLink(err) {
						return errors.Join(errors.New(name+" is still there"), err)
					}
				}
				return nil
			}))
			w.pods.fail, w.addresses.fail = nil, fmt.Errorf("none free")
			if code := w.mustFail(t, add); code != 11 {
				t.Errorf("code without an address is %d, want 11", code)
			}
			w.addresses.fail = nil
			w.mustServe(t, add)
		})
	}
}

// The datapath is told of a pod, and its programs judge what the pod sends, before any link of the pod is up.
func TestDatapathIsToldFirst(t *testing.T) {
	w := newWorld(t)
	for _, datapath := range onThisKernel {
		name := string(datapath)
		pod, told := must[*netlab.NetNS](t)(w.lab.NetNS(name)), false
		w.pods.route = func(e PodEntry, add bool) error {
			told = told || add
			return errors.Join(w.routePod(e, add), pod.Do(func() error {
				links, err := netlinksafe.LinkList()
				for _, l := range links {
					if a := l.Attrs(); a.Name != "lo" && a.Flags&net.FlagUp != 0 && add {
						t.Errorf("%s: %s is up before the datapath knows the pod", name, a.Name)
					}
				}
				return err
			}))
		}
		w.mustServe(t, on(datapath, request("ADD", name, pod)))
		if !told {
			t.Errorf("%s: the datapath is not told of the pod", name)
		}
	}
}

// An attempt that was cut off may have leased an address for another datapath.
func TestAddChangesDatapath(t *testing.T) {
	w := newWorld(t)
	pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
	add := on(Exclusive, request("ADD", "a", pod))
	_, err := w.addresses.Acquire(t.Context(), Attachment{Key: Key{"net", "a", "eth0"}}, false)
	check0(t, err)
	if code := w.mustFail(t, add); code != 11 {
		t.Errorf("code is %d, want 11", code)
	}
	w.mustServe(t, add)
}

// The node shows what pods use, for a pool that has lost its journal.
func TestWired(t *testing.T) {
	w := newWorld(t)
	w.addresses.dual = true
	want := map[string]string{}
	for _, datapath := range onThisKernel {
		name := string(datapath)
		pod := must[*netlab.NetNS](t)(w.lab.NetNS(name))
		want[name] = fmt.Sprint(addressesIn(t, w.mustServe(t, on(datapath, request("ADD", name, pod)))), datapath == Exclusive)
	}
	wired := must[[]Leased](t)(Wired(w.node.Path(), w.records))
	got := map[string]string{}
	for _, l := range wired {
		slices.SortFunc(l.Lease.Addrs, netip.Addr.Compare)
		got[l.Attachment.ContainerID] = fmt.Sprint(l.Lease.Addrs, l.Lease.Exclusive)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the node shows %v, want %v", got, want)
	}
}

// What the pod and the runtime ask for reaches those who see to it, and the record.
func TestWishes(t *testing.T) {
	w := newWorld(t)
	limits := Limits{Ingress: 1e6, Egress: 2e6}
	w.config.Wish = func(_ context.Context, a Attachment, annotations map[string]string) (Wish, error) {
		if a.Pod.Name != "a" || annotations["x"] != "y" {
			return Wish{}, fmt.Errorf("asked for %+v with %v", a, annotations)
		}
		return Wish{Datapath: Exclusive, Limits: Limits{Egress: limits.Egress}}, nil
	}
	w.serve(t)
	pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
	add := request("ADD", "a", pod)
	add.Config = config("1.1.0", `,"capabilities":{"portMappings":true,"bandwidth":true,"dns":true,"io.kubernetes.cri.pod-annotations":true},
		"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp","hostIP":"10.8.0.2"}],
		"bandwidth":{"ingressRate":1000000,"ingressBurst":8,"egressRate":3000000,"egressBurst":8},
		"dns":{"servers":["10.0.0.10"],"searches":["a.svc"],"options":["ndots:5"]},"io.kubernetes.cri.pod-annotations":{"x":"y"}}`)
	raw := w.mustServe(t, add)
	var result types100.Result
	check0(t, json.Unmarshal(raw, &result))
	if d := result.DNS; fmt.Sprint(d.Nameservers, d.Search, d.Options) != "[10.0.0.10] [a.svc] [ndots:5]" {
		t.Errorf("DNS is %+v", d)
	}
	entry := w.pods.entry(addressOf(&result.IPs[0].Address))
	port := HostPort{netip.MustParseAddr("10.8.0.2"), 80, 8080, 6}
	if !slices.Equal(entry.HostPorts, []HostPort{port}) || entry.Datapath != Exclusive || entry.Slot != 2 {
		t.Errorf("entry is %+v", entry)
	}
	if s := w.shaper.of("a"); s.Limits != limits || s.HostLink == "" || s.SideLink != sideLink || s.PodLink != "eth0" || s.NetNS != pod.Path() {
		t.Errorf("shaped as %+v", s)
	}
	attached := must[[]Attached](t)(w.server.Attached())
	if len(attached) != 1 || attached[0].Limits != limits || attached[0].Scope.Search[0] != "a.svc" || attached[0].Pod.Name != "a" {
		t.Errorf("attached: %+v", attached)
	}
	w.wantLiveLimits(t, attached[0].Key)
	w.mustServe(t, request("DEL", "a", pod))
	w.wantNothingLeft(t)
}

func (w *world) wantLiveLimits(t *testing.T, k Key) {
	t.Helper()
	next := Limits{Ingress: 5e6}
	check0(t, w.server.SetLimits(t.Context(), k, next))
	if s := w.shaper.of(k.ContainerID); s.Limits != next {
		t.Errorf("shaped as %+v", s)
	}
	w.shaper.fail = errors.New("no such qdisc")
	if err := w.server.SetLimits(t.Context(), k, Limits{}); err == nil {
		t.Error("a failure is not told")
	}
	if attached := must[[]Attached](t)(w.server.Attached()); attached[0].Limits != next {
		t.Errorf("after a failure limits are %+v", attached[0].Limits)
	}
	w.shaper.fail = nil
	check0(t, w.server.SetLimits(t.Context(), Key{"net", "nobody", "eth0"}, next))
}

// TestWishesRefused: what cannot be had is refused before anything is taken.
func TestWishesRefused(t *testing.T) {
	w := newWorld(t)
	pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
	for name, tt := range map[string]struct {
		change func(*Config)
		more   string
		want   string
	}{
		"no ENIs":    {func(c *Config) { c.ENIs = nil }, `,"datapath":"exclusive"`, `datapath "exclusive" is not available`},
		"no records": {func(c *Config) { c.Records = "" }, `,"datapath":"ipvlan"`, `datapath "ipvlan" is not available`},
		"no shaper":  {func(c *Config) { c.Shaper = nil }, `,"capabilities":{"bandwidth":true},"runtimeConfig":{"bandwidth":{"ingressRate":1000000}}`, "limits on bandwidth are not available"},
		"unknown datapath": {func(c *Config) {
			c.Wish = func(context.Context, Attachment, map[string]string) (Wish, error) { return Wish{Datapath: "vlan"}, nil }
		}, "", `asks for the datapath "vlan"`},
	} {
		c := w.config
		tt.change(&c)
		s := must[*Server](t)(NewServer(c))
		r := request("ADD", "a", pod)
		r.Config = config("1.1.0", tt.more)
		if answer := s.Handle(t.Context(), r); answer.Error == nil || !strings.Contains(answer.Error.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, answer.Error, tt.want)
		}
		check0(t, s.Close())
	}
	w.wantNothingLeft(t)
}
