//go:build node

package sim_test

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

func TestTrafficBetweenENIs(t *testing.T) {
	w := newWorld(t, "nptest-vpc-traffic", newGuard(t))
	ns1, primary1 := w.run("i-1")
	ns2, primary2 := w.run("i-2")

	t.Run("primary to primary, as neighbours", func(t *testing.T) {
		exchange(t, w.socket(ns1, primary1.PrimaryIP), w.socket(ns2, primary2.PrimaryIP))
	})
	eni1, eni2 := w.attach("i-1", 1), w.attach("i-2", 1)
	pod1, pod2 := eni1.PrivateIPs[1], eni2.PrivateIPs[1]
	w.use(ns1, eni1.MAC, pod1)
	w.use(ns2, eni2.MAC, pod2)
	t.Run("secondary to secondary, by the gateway", func(t *testing.T) {
		exchange(t, w.socket(ns1, pod1), w.socket(ns2, pod2))
	})
	t.Run("secondary to primary, across vSwitches", func(t *testing.T) {
		exchange(t, w.socket(ns1, pod1), w.socket(ns2, primary2.PrimaryIP))
	})
	t.Run("address assigned later", func(t *testing.T) {
		added, err := w.ecs.AssignIPs(t.Context(), aliyun.Assign{ENIID: eni1.ID, Family: aliyun.IPv4, Count: 1})
		if err != nil {
			t.Fatal(err)
		}
		w.use(ns1, eni1.MAC, added[0])
		exchange(t, w.socket(ns1, added[0]), w.socket(ns2, pod2))
	})
	for _, id := range []string{primary1.ID, primary2.ID, eni1.ID, eni2.ID} {
		if n, err := w.vpc.Dropped(id); err != nil || n != 0 {
			t.Errorf("%d frames of %s were dropped, %v", n, id, err)
		}
	}
}

// The same frame from an address that is not the ENI's passes without the guard, and is dropped and counted with it.
func TestForeignSource(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprintf("guarded %v", guarded), func(t *testing.T) {
			var guard sim.SourceGuard
			if guarded {
				guard = newGuard(t)
			}
			w := newWorld(t, "nptest-vpc-foreign", guard)
			ns1, primary1 := w.run("i-1")
			ns2, primary2 := w.run("i-2")
			eni := w.attach("i-1", 1)
			given := eni.PrivateIPs[1]
			w.use(ns1, eni.MAC, given)
			pod, machine, target := w.socket(ns1, given), w.socket(ns1, primary1.PrimaryIP), w.socket(ns2, primary2.PrimaryIP)
			exchange(t, pod, target)

			if err := w.ecs.UnassignIPs(t.Context(), eni.ID, []netip.Addr{given}); err != nil {
				t.Fatal(err)
			}
			const frames = 3
			for range frames {
				send(t, pod, target, "foreign")
			}
			if !guarded {
				if got := receive(t, target, pod); got != "foreign" {
					t.Errorf("received %q", got)
				}
				return
			}
			// Frames keep their order, so the first to arrive shows whether one before it did.
			send(t, machine, target, "own")
			if got := receive(t, target, machine); got != "own" {
				t.Errorf("received %q, want only what has a source of its ENI", got)
			}
			if n, err := w.vpc.Dropped(eni.ID); err != nil || n != frames {
				t.Errorf("%d frames are counted as dropped, %v; want %d", n, err, frames)
			}
		})
	}
}

// What is not an address of an ENI any more is not reachable, whoever still has it on a link.
func TestUnassignedAddressIsUnreachable(t *testing.T) {
	w := newWorld(t, "nptest-vpc-unassign", nil)
	ns1, primary1 := w.run("i-1")
	ns2, _ := w.run("i-2")
	eni := w.attach("i-2", 2)
	kept, taken := eni.PrivateIPs[1], eni.PrivateIPs[2]
	w.use(ns2, eni.MAC, kept)
	w.use(ns2, eni.MAC, taken)
	if err := w.ecs.UnassignIPs(t.Context(), eni.ID, []netip.Addr{taken}); err != nil {
		t.Fatal(err)
	}
	from := w.socket(ns1, primary1.PrimaryIP)
	gone, there := w.socket(ns2, taken), w.socket(ns2, kept)
	send(t, from, gone, "lost")
	exchange(t, from, there) // passes the same way after it
	if err := gone.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := gone.ReadFrom(make([]byte, 10)); err == nil {
		t.Errorf("%d bytes reached %s", n, taken)
	}
}

func TestMetadataFromInstances(t *testing.T) {
	w := newWorld(t, "nptest-vpc-metadata", newGuard(t))
	listener, err := w.vpc.Listen(t.Context(), "tcp4", netip.AddrPortFrom(sim.MetadataAddr, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: w.cloud.Handler()}
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	for _, id := range []string{"i-1", "i-2"} {
		ns, _ := w.run(id)
		if got := w.metadata(ns, netip.Addr{}, "instance-id"); got != id {
			t.Errorf("metadata tells %s that it is %q", id, got)
		}
		// A pod's address belongs to the machine too.
		eni := w.attach(id, 1)
		w.use(ns, eni.MAC, eni.PrivateIPs[1])
		if got := w.metadata(ns, eni.PrivateIPs[1], "instance-id"); got != id {
			t.Errorf("metadata tells a pod of %s that it is on %q", id, got)
		}
		want := fmt.Sprintf("[%q,%q]", eni.PrivateIPs[0], eni.PrivateIPs[1])
		if got := w.metadata(ns, netip.Addr{}, "network/interfaces/macs/"+eni.MAC+"/private-ipv4s"); got != want {
			t.Errorf("metadata lists the addresses %s, want %s", got, want)
		}
	}
}

func TestLinksComeAndGo(t *testing.T) {
	w := newWorld(t, "nptest-vpc-links", newGuard(t))
	ns, primary := w.run("i-1")
	expect := func(machine ...string) {
		t.Helper()
		if got := w.links(ns); !slices.Equal(got, machine) {
			t.Errorf("the machine has %v, want %v", got, machine)
		}
		if got := w.links(w.vpcNS); len(got) != len(machine) {
			t.Errorf("the VPC has %v for %v", got, machine)
		}
	}
	expect("eth0", "lo")
	first, second := w.attach("i-1", 0), w.attach("i-1", 0)
	expect("eth0", "eth1", "eth2", "lo")
	w.in(ns, func() error {
		for name, eni := range map[string]aliyun.ENI{"eth0": primary, "eth1": first, "eth2": second} {
			link, err := linkByMAC(eni.MAC)
			if err != nil {
				return err
			}
			if link.Attrs().Name != name || link.Attrs().MTU != 1500 {
				t.Errorf("%s is %s with MTU %d, want %s with 1500", eni.MAC, link.Attrs().Name, link.Attrs().MTU, name)
			}
			if up := link.Attrs().Flags&net.FlagUp != 0; up != (name == "eth0") {
				t.Errorf("%s up: %v", name, up)
			}
		}
		return nil
	})
	if err := w.ecs.DetachENI(t.Context(), first.ID, "i-1"); err != nil {
		t.Fatal(err)
	}
	expect("eth0", "eth2", "lo")
	w.attach("i-1", 0)
	expect("eth0", "eth1", "eth2", "lo")
	if err := w.cloud.TerminateInstance(t.Context(), "i-1"); err != nil {
		t.Fatal(err)
	}
	expect("lo")
	w.in(w.vpcNS, func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		for _, r := range routes {
			if r.LinkIndex != 0 {
				t.Errorf("route left in the VPC: %s", r)
			}
		}
		return err
	})
}

// The namespace of a machine may go before the machine: its links go with it, and nothing else minds.
func TestMachineVanishes(t *testing.T) {
	w := newWorld(t, "nptest-vpc-vanish", newGuard(t))
	ns1, _ := w.run("i-1")
	ns2, primary2 := w.run("i-2")
	eni := w.attach("i-1", 3)
	if err := ns1.Close(); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); len(w.links(w.vpcNS)) != 2; time.Sleep(5 * time.Millisecond) { // lo and the port of i-2
		if time.Since(start) > patience {
			t.Fatalf("the VPC still has %v", w.links(w.vpcNS))
		}
	}
	if err := w.ecs.DetachENI(t.Context(), eni.ID, "i-1"); err != nil {
		t.Errorf("detach: %v", err)
	}
	enis, err := w.ecs.DescribeENIs(t.Context(), aliyun.ENIFilter{IDs: []string{eni.ID}})
	if err != nil || len(enis) != 1 || enis[0].Status != aliyun.StatusAvailable {
		t.Errorf("after detach: %+v, %v", enis, err)
	}
	if err := w.cloud.TerminateInstance(t.Context(), "i-1"); err != nil {
		t.Errorf("terminate: %v", err)
	}
	if err := w.ecs.AttachENI(t.Context(), eni.ID, "i-2"); err != nil {
		t.Fatal(err)
	}
	w.use(ns2, eni.MAC, eni.PrivateIPs[1])
	ns3, primary3 := w.run("i-3")
	exchange(t, w.socket(ns2, eni.PrivateIPs[1]), w.socket(ns3, primary3.PrimaryIP))
	exchange(t, w.socket(ns3, primary3.PrimaryIP), w.socket(ns2, primary2.PrimaryIP))
}

// A link that cannot be made leaves nothing, and the attachment falls back.
func TestPlugFails(t *testing.T) {
	w := newWorld(t, "nptest-vpc-fail", newGuard(t))
	before := w.links(w.vpcNS)
	_, _, err := w.cloud.RunInstance(t.Context(), sim.InstanceSpec{
		ID: "i-1", Type: "ecs.sim.small", VSwitchID: sim.DefaultNodeVSwitch, NetNS: "/run/netns/nptest-none",
	})
	if err == nil {
		t.Error("an instance runs in a namespace that does not exist")
	}
	ns := w.namespace("taken")
	w.in(ns, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "other"})
	})
	_, _, err = w.cloud.RunInstance(t.Context(), sim.InstanceSpec{
		ID: "i-1", Type: "ecs.sim.small", VSwitchID: sim.DefaultNodeVSwitch, NetNS: ns.Path(),
	})
	if err == nil {
		t.Error("an instance runs although eth0 is taken")
	}
	if after := w.links(w.vpcNS); !slices.Equal(before, after) {
		t.Errorf("the VPC has %v, had %v", after, before)
	}
	if enis := w.cloud.ENIs(); len(enis) != 0 {
		t.Errorf("ENIs left: %+v", enis)
	}
}
