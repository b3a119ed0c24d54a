package hostnet

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// parentNode is a node on which the first ENI of twoENIs is as wanted but for ipvlan.
func parentNode(t *testing.T) (Wanted, Found) {
	t.Helper()
	wanted, found := twoENIs(), bareNode()
	found.Addrs[2] = prefixes("10.0.0.2/24", "fd00::2/64", "fe80::1/64")
	found.Attached = map[Attachment]bool{}
	for range 2 {
		steps, _ := Build(wanted, found)
		carry(&found, steps)
	}
	if steps, _ := Build(wanted, found); len(steps) != 0 {
		t.Fatalf("still to do:\n%s", text(steps))
	}
	wanted.Parents = []string{"00:16:3e:00:00:02"}
	return wanted, found
}

func mustBuild(t *testing.T, wanted Wanted, found Found, want string) {
	t.Helper()
	steps, _ := Build(wanted, found)
	if diff := cmp.Diff(want, text(steps)); diff != "" {
		t.Error(diff)
	}
}

// The companion comes first; what it needs is asked for when it is there.
func TestParentIsMadeInTwoRounds(t *testing.T) {
	wanted, found := parentNode(t)
	mustBuild(t, wanted, found, "ip link add npc1 link eth1 type ipvlan mode l2 bridge\n")
	steps, _ := Build(wanted, found)
	carry(&found, steps)
	second := `ip address add 169.254.1.1/32 dev eth1 scope link nodad
ip address del 10.0.0.2/32 dev eth1
ip link set dev npc1 mtu 1400
ip address add 10.0.0.2/32 dev npc1 scope host nodad
ip address add fd00::2/128 dev npc1 scope host nodad
ip link set dev npc1 up
ip link set dev npc1 arp off
attach program companion to dev npc1
attach program ipvlan-parent to dev eth1
`
	mustBuild(t, wanted, found, second)
	steps, _ = Build(wanted, found)
	for _, s := range steps[2:] {
		if s.Part != PartIPVlan || s.MAC != wanted.Parents[0] {
			t.Errorf("%s is for part %d of %q", s, s.Part, s.MAC)
		}
	}
	carry(&found, steps)
	mustBuild(t, wanted, found, "")
	// An earlier process's companion is reason enough.
	wanted.Parents = nil
	mustBuild(t, wanted, found, "")
	// Others' slaves change the port for all.
	found.Links[3].IPVlan, found.Addrs[2] = IPVlanPort{Mode: 2, Flag: 1}, prefixes("10.0.0.3/24")
	mustBuild(t, wanted, found, `ip link set dev npc1 type ipvlan mode l2 bridge
ip address add 10.0.0.3/32 dev npc1 scope host nodad
ip address del 10.0.0.2/32 dev npc1
ip address del fd00::2/128 dev npc1
ip link set dev npc1 arp off
set node addresses [10.0.0.3], local 127.0.0.1 ::1, networks 10.0.0.3/32:node 169.254.20.10/32:node
`)
	wanted.ENIs = wanted.ENIs[:1]
	steps, _ = Build(wanted, found)
	for _, line := range []string{"ip link del dev npc1\n", "detach program ipvlan-parent from dev eth1\n", "ip address del 169.254.1.1/32 dev eth1\n"} {
		if !strings.Contains(text(steps), line) {
			t.Errorf("%q is not in:\n%s", line, text(steps))
		}
	}
}

func TestParentIsRefused(t *testing.T) {
	for name, link := range map[string]Link{
		"a bridge":              {Index: 9, Name: "br0", Kind: "bridge"},
		"a macvlan":             {Index: 9, Name: "mac0", Kind: "macvlan", Parent: 3},
		"the companion's name":  {Index: 9, Name: "npc1", Kind: "dummy"},
		"":                      {Index: 9, Name: "vrf0", Kind: "vrf"},
		"another ENI companion": {Index: 9, Name: "npc1", Kind: "ipvlan", Parent: 8},
	} {
		wanted, found := parentNode(t)
		found.Links = append(found.Links, link)
		if link.Kind == "bridge" || link.Kind == "vrf" {
			found.Links[2].Master = link.Index
		}
		steps, _ := Build(wanted, found)
		var refused, added bool
		for _, s := range steps {
			r, ok := s.Op.(Refuse)
			refused = refused || ok && errors.Is(r.Err, ErrForeignMaster)
			_, adds := s.Op.(AddCompanion)
			added = added || adds
		}
		want := name != "" && link.Kind != "ipvlan"
		if refused != want || added == want {
			t.Errorf("%q: refused %t, added %t:\n%s", name, refused, added, text(steps))
		}
	}
}

func TestHostNetworks(t *testing.T) {
	wanted, found := twoENIs(), bareNode()
	found.Addrs[2] = prefixes("10.0.0.2/24")
	wanted.HostNetworks = prefixes("10.1.0.0/24")
	wanted.Egress = Egress{Mode: EgressNodeSNAT, VPC: prefixes("10.0.0.0/8"), Services: prefixes("172.16.0.0/16"), Exempt: prefixes("10.1.0.0/24")}
	line := func(found Found) string { return SetNode{Networks: found.hostNetworks(wanted)}.String() }
	want := "set node addresses [], local, networks 0.0.0.0/0:node 10.0.0.0/8:eni 10.0.0.2/32:node 10.1.0.0/24:node 169.254.20.10/32:node 172.16.0.0/16:eni"
	if got := line(found); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	nat, _ := found.masquerade(wanted)
	wanted.Egress, found.NAT = Egress{}, &nat // what an earlier process left
	if got := line(found); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	wanted.Egress.Mode = EgressNone
	if got, want := line(found), "set node addresses [], local, networks 10.0.0.2/32:node 10.1.0.0/24:node 169.254.20.10/32:node"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	wanted.ServiceNetworks, wanted.Spared = prefixes("172.16.0.0/16", "10.1.0.0/24"), prefixes("172.16.0.9/32")
	if got, want := line(found), "set node addresses [], local, networks 10.0.0.2/32:node 10.1.0.0/24:services 169.254.20.10/32:node 172.16.0.0/16:services 172.16.0.9/32:node"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestPodMark(t *testing.T) {
	for slot := 1; slot <= maxSlot; slot++ {
		if m := PodMark(slot); m&^PodMarkMask != 0 || m&OutsideMark != 0 || m == PodMark(slot%maxSlot+1) {
			t.Errorf("slot %d has mark %#x", slot, m)
		}
	}
}

func TestLinksOnTopAreNotTheENI(t *testing.T) {
	_, found := parentNode(t)
	e := ENI{MAC: "00:16:3e:00:00:02", Slot: 1}
	found.Links = append([]Link{{Index: 7, Name: "npc1", MAC: e.MAC, Kind: "ipvlan", Parent: 3}, {Index: 8, Name: "eth1.5", MAC: e.MAC, Kind: "vlan"}}, found.Links...)
	if l, ok := found.eniLink(e); !ok || l.Name != "eth1" {
		t.Errorf("link is %v", l)
	}
	c, ok := found.companions([]ENI{e})[e.MAC]
	if !ok || c.Link != "npc1" || c.Parent != "eth1" || c.LinkIndex != 7 || c.ParentIndex != 3 || c.MAC.String() != e.MAC {
		t.Errorf("companion is %+v", c)
	}
}
