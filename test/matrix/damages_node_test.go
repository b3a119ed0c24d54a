//go:build node

package matrix

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/hostnet"
)

// A damage is done to a node by somebody else, for all of its pods at once.
type damage struct {
	name string
	do   func(*sick) error
	// only is the datapath that it is about; empty: all.
	only string
	// undo removes what the agent need not remove; nil: nothing.
	undo func(*sick) error
	// again says that the agent was told to undo the same by an earlier damage, which it reports once a minute.
	again bool
}

func damages() []damage {
	return []damage{
		{name: "rules flushed", do: (*sick).flushRules},
		{name: "routes flushed", do: (*sick).flushRoutes},
		{name: "ENI renamed", do: (*sick).renameENI},
		{name: "foreign default route by an ENI", do: (*sick).foreignDefault},
		{name: "foreign default route in an ENI's table", do: (*sick).foreignDefaultInTable, again: true},
		{name: "rp_filter strict", do: (*sick).strictFilter},
		{name: "pods' host routes deleted", do: (*sick).deletePodRoutes, again: true},
		{name: "programs removed", do: (*sick).removePrograms},
		{name: "l3s slave on the ENI", only: ipvlan, do: (*sick).addSlave, undo: (*sick).removeSlave},
	}
}

// A sick is a field with n1 damaged.
type sick struct {
	*field
	before view // of n1's kernel
}

// now is what n1's kernel has, the namespaces of its exclusive pods included.
func (s *sick) now() (view, error) {
	v, err := s.n1.network()
	if err != nil {
		return nil, err
	}
	// ENIs that nobody uses are the pool's to move, whatever is broken.
	v = slices.DeleteFunc(v, func(line string) bool {
		return strings.Contains(line, foreignLink) || strings.HasPrefix(line, idleENI)
	})
	own := s.of[exclusive]
	if own == nil || own.broken != nil {
		return v, nil
	}
	err = own.a.netns.Do(func() error {
		programs, err := programsOf(podLink)
		for _, p := range programs {
			v = append(v, "pod "+own.a.name+" "+p)
		}
		return err
	})
	return v, err
}

// flushRules does what a network daemon does when it starts: rules that it does not know go. Those of the machine's second
// ENI are its own.
func (s *sick) flushRules() error {
	return s.n1.NetNS().Do(func() error {
		for _, f := range netlinkFamilies {
			rules, err := netlink.RuleList(f)
			if err != nil {
				return err
			}
			for _, r := range rules {
				if r.Protocol != hostnet.Protocol {
					continue
				}
				if err := netlink.RuleDel(&r); err != nil {
					return fmt.Errorf("delete %s: %w", r, err)
				}
			}
		}
		return nil
	})
}

// deleteRoutes deletes routes of the agent, in all tables.
func (s *sick) deleteRoutes(which func(netlink.Route) bool) error {
	return s.n1.NetNS().Do(func() error {
		deleted := 0
		for _, f := range netlinkFamilies {
			routes, err := netlink.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range routes {
				if r.Protocol != hostnet.Protocol || !which(r) {
					continue
				}
				deleted++
				if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) { // the agent may be putting them back already
					return fmt.Errorf("delete %s: %w", r, err)
				}
			}
		}
		if deleted == 0 {
			return errors.New("there is no such route")
		}
		return nil
	})
}

func (s *sick) flushRoutes() error {
	return s.deleteRoutes(func(netlink.Route) bool { return true })
}

func (s *sick) deletePodRoutes() error {
	return s.deleteRoutes(func(r netlink.Route) bool {
		if r.Dst == nil || r.Table != unix.RT_TABLE_MAIN {
			return false
		}
		ones, bits := r.Dst.Mask.Size()
		return ones == bits
	})
}

// eniLink finds the ENI that pods of a shared datapath have. Slaves of an ipvlan ENI have its MAC address, too.
func (s *sick) eniLink() (netlink.Link, error) {
	shared := s.of[veth]
	if p := s.of[ipvlan]; p != nil && p.broken == nil {
		shared = p
	}
	_, mac := s.eniOf(shared.a.addrs[0])
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Attrs().HardwareAddr.String() == mac && l.Type() == "veth" {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no link has the MAC address %s", mac)
}

func (s *sick) onENI(do func(eni netlink.Link) error) error {
	return s.n1.NetNS().Do(func() error {
		eni, err := s.eniLink()
		if err != nil {
			return err
		}
		return do(eni)
	})
}

// renameENI does what udev does to a device that it sees late. The name is then what is wanted.
func (s *sick) renameENI() error {
	return s.onENI(func(eni netlink.Link) error {
		old, renamed := eni.Attrs().Name, "ens"+strings.TrimPrefix(eni.Attrs().Name, "eth")
		if err := netlink.LinkSetDown(eni); err != nil {
			return err
		}
		if err := netlink.LinkSetName(eni, renamed); err != nil {
			return err
		}
		for i, line := range s.before {
			fields := strings.Fields(line)
			for j, word := range fields {
				if word == old {
					fields[j] = renamed
				}
			}
			s.before[i] = strings.Join(fields, " ")
		}
		return netlink.LinkSetUp(eni)
	})
}

// foreignDefault does what a DHCP client on the ENI does: the node's own traffic, too, would leave by it.
func (s *sick) foreignDefault() error {
	return s.onENI(func(eni netlink.Link) error {
		return netlink.RouteAppend(&netlink.Route{
			LinkIndex: eni.Attrs().Index, Gw: net.ParseIP("10.0.79.253"), Flags: int(netlink.FLAG_ONLINK), Protocol: unix.RTPROT_DHCP,
		})
	})
}

// foreignDefaultInTable makes the ENI's table lead elsewhere.
func (s *sick) foreignDefaultInTable() error {
	return s.onENI(func(eni netlink.Link) error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: eni.Attrs().Index, Table: unix.RT_TABLE_UNSPEC},
			netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Table > 1000 {
				return netlink.RouteReplace(&netlink.Route{Table: r.Table, Dst: r.Dst, Type: unix.RTN_BLACKHOLE})
			}
		}
		return errors.New("the ENI has no table")
	})
}

// strictFilter does what a file in sysctl.d does that is read late.
func (s *sick) strictFilter() error {
	return s.onENI(func(eni netlink.Link) error {
		return os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", eni.Attrs().Name, "rp_filter"), []byte("1"), 0o644)
	})
}

// removePrograms takes every program off every link: those of tcx by their pinned links, the filters with their qdisc.
func (s *sick) removePrograms() error {
	if err := s.detachTCX(); err != nil {
		return err
	}
	if err := s.n1.NetNS().Do(removeClsact); err != nil {
		return err
	}
	if own := s.of[exclusive]; own != nil && own.broken == nil {
		return own.a.netns.Do(removeClsact)
	}
	return nil
}

func (s *sick) detachTCX() error {
	root := s.n1.MachinePath(pinDir)
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Base(filepath.Dir(path)) != "links" || !strings.Contains(d.Name(), "-") {
			return err
		}
		l, err := link.LoadPinnedLink(path, nil)
		if errors.Is(err, os.ErrNotExist) { // the agent is replacing it already
			return nil
		}
		if err != nil {
			return err
		}
		defer l.Close()
		return l.Detach()
	})
}

func removeClsact() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		qdiscs, err := netlink.QdiscList(l)
		if err != nil {
			return err
		}
		for _, q := range qdiscs {
			if q.Type() != "clsact" {
				continue
			}
			if err := netlink.QdiscDel(q); err != nil {
				return fmt.Errorf("delete clsact of %s: %w", l.Attrs().Name, err)
			}
		}
	}
	return nil
}

// foreignLink is a slave that somebody adds to an ENI.
const foreignLink = "foreign0"

// addSlave turns all slaves of the ENI to mode L3S: the mode is the parent's.
func (s *sick) addSlave() error {
	return s.onENI(func(eni netlink.Link) error {
		return netlink.LinkAdd(&netlink.IPVlan{
			LinkAttrs: netlink.LinkAttrs{Name: foreignLink, ParentIndex: eni.Attrs().Index, TxQLen: -1}, Mode: netlink.IPVLAN_MODE_L3S,
		})
	})
}

func (s *sick) removeSlave() error {
	return s.n1.NetNS().Do(func() error {
		l, err := netlink.LinkByName(foreignLink)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
}
