//go:build node

package matrix

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/agentapi"
)

// pinDir is where agents pin by default, see cmd/nearpath.
const pinDir = "/sys/fs/bpf/nearpath"

var netlinkFamilies = []int{netlink.FAMILY_V4, netlink.FAMILY_V6}

// eniVendor begins the MAC addresses of ENIs.
const eniVendor = "00:16:3e:"

// A view lists what is in a node's kernel, one line for a thing.
type view []string

// lacks says what of v is not in now, and what is new there.
func (v view) lacks(now view) error {
	var errs []error
	for _, line := range v {
		if !slices.Contains(now, line) {
			errs = append(errs, errors.New("- "+line))
		}
	}
	for _, line := range now {
		if !slices.Contains(v, line) {
			errs = append(errs, errors.New("+ "+line))
		}
	}
	return errors.Join(errs...)
}

// idleENI begins the line of an ENI that is down.
const idleENI = "idle ENI "

// network lists the links, rules and routes of the node that are not the kernel's own, and settings of links.
func (n *node) network() (v view, err error) {
	err = n.NetNS().Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		names := map[int]string{}
		for _, l := range links {
			a := l.Attrs()
			if names[a.Index] = a.Name; a.RawFlags&unix.IFF_UP == 0 && strings.HasPrefix(a.HardwareAddr.String(), eniVendor) {
				v = append(v, idleENI+a.HardwareAddr.String()) // its name tells how it came back
				continue
			}
			v = append(v, fmt.Sprintf("link %s %s %s group %d up %t%s", a.Name, l.Type(), a.HardwareAddr, a.Group, a.RawFlags&unix.IFF_UP != 0, modeOf(l)))
			// Of a link that went meanwhile there is nothing to read.
			filter, _ := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", a.Name, "rp_filter"))
			v = append(v, fmt.Sprintf("rp_filter %s %s", a.Name, strings.TrimSpace(string(filter))))
			programs, err := programsOf(a.Name)
			if err != nil {
				return err
			}
			v = append(v, programs...)
		}
		rules, err := rulesOf()
		if err != nil {
			return err
		}
		routes, err := routesOf(names)
		v = append(v, append(rules, routes...)...)
		return err
	})
	for i, line := range v {
		v[i] = strings.Join(strings.Fields(line), " ")
	}
	slices.Sort(v)
	return v, err
}

func modeOf(l netlink.Link) string {
	if i, ok := l.(*netlink.IPVlan); ok {
		return fmt.Sprintf(" mode %d", i.Mode)
	}
	return ""
}

// programsOf lists what is attached to a link of the calling thread's namespace, by tcx and as filters.
func programsOf(name string) (v view, err error) {
	l, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, at := range []struct {
		tcx    ebpf.AttachType
		clsact uint32
	}{{ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS}, {ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS}} {
		attached, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: at.tcx})
		if err == nil { // a kernel without tcx has none
			for _, p := range attached.Programs {
				v = append(v, fmt.Sprintf("program %s %s %s", name, at.tcx, nameOf(p.ID)))
			}
		}
		filters, err := netlink.FilterList(l, at.clsact)
		if err != nil && !errors.Is(err, unix.EINVAL) { // no clsact
			return nil, err
		}
		for _, f := range filters {
			if b, ok := f.(*netlink.BpfFilter); ok {
				v = append(v, fmt.Sprintf("program %s %x %s", name, at.clsact, b.Name))
			}
		}
	}
	return v, nil
}

func nameOf(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return err.Error()
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return err.Error()
	}
	return info.Name
}

func rulesOf() (v view, err error) {
	for _, f := range netlinkFamilies {
		rules, err := netlink.RuleList(f)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			v = append(v, fmt.Sprintf("rule %d %s proto %d", f, r, r.Protocol))
		}
	}
	return v, nil
}

// routesOf leaves out what the kernel makes by itself and the tables local and, for IPv6, of cached routes.
func routesOf(names map[int]string) (v view, err error) {
	for _, f := range netlinkFamilies {
		routes, err := netlink.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if r.Table != unix.RT_TABLE_LOCAL && r.Protocol != unix.RTPROT_KERNEL {
				v = append(v, fmt.Sprintf("route %d %v via %v dev %s table %d proto %d metric %d", f, r.Dst, r.Gw, names[r.LinkIndex], r.Table, r.Protocol, r.Priority))
			}
		}
	}
	return v, nil
}

// maps lists the pins and what is in the pinned hash maps. IDs in keys are those of kernel objects, so two views compare on
// one node only.
func (n *node) maps() (v view, err error) {
	root := n.MachinePath(pinDir)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if filepath.Base(filepath.Dir(path)) == "links" {
			v = append(v, "pin "+name+stateOf(path))
			return nil
		}
		v = append(v, "pin "+name)
		entries, err := entriesOf(path)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		for _, key := range entries {
			v = append(v, fmt.Sprintf("entry %s %x", name, key))
		}
		return nil
	})
	slices.Sort(v)
	return v, err
}

// defunct marks the pin of a program whose link has gone: the agent removes it some seconds later.
const defunct = " (defunct)"

func stateOf(pin string) string {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return " " + err.Error()
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return " " + err.Error()
	}
	if on := info.TCX(); on != nil && on.Ifindex == 0 {
		return defunct
	}
	return ""
}

// entriesOf lists the keys of a pinned map; arrays have the same for ever.
func entriesOf(path string) (keys [][]byte, err error) {
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if t := m.Type(); t != ebpf.Hash && t != ebpf.LPMTrie && t != ebpf.LRUHash {
		return nil, nil
	}
	var key any // nil: the first
	for {
		next, err := m.NextKeyBytes(key)
		if err != nil || next == nil {
			return keys, err
		}
		keys, key = append(keys, next), next
	}
}

// files lists what there is below the agent's directories, without what it may rewrite at any time.
func (n *node) files() (v view, err error) {
	for _, dir := range []string{n.MachinePath(filepath.Dir(agentapi.DefaultSocket)), filepath.Join(n.Dir(), "state"), filepath.Join(n.Dir(), "cni", "cache")} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.IsDir() {
				return err
			}
			name, _ := filepath.Rel(dir, path)
			v = append(v, fmt.Sprintf("file %s/%s", filepath.Base(dir), name))
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(v)
	return v, nil
}
