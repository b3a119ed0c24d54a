package sim

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// neighbours answer neighbour solicitations for addresses that are behind other ports. IPv4 has proxy_arp for that; the
// kernel's proxy of NDP must be told each address on each port. A port is not told its own addresses: an answer would look
// like a duplicate to whoever checks for one. Methods run in the VPC's namespace.
type neighbours struct {
	mu       sync.Mutex // guards the fields below, also while the kernel is told
	gateways []netip.Addr
	owners   map[netip.Addr]int // port by address
	ports    []int              // by index of the link
}

// addGateway makes ports that come later answer for it.
func (n *neighbours) addGateway(a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gateways = append(n.gateways, a)
}

func (n *neighbours) addPort(index int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports = append(n.ports, index)
	return n.tell(index)
}

// refresh tells the kernel all of a port again.
func (n *neighbours) refresh(index int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(n.ports, index) {
		return nil
	}
	return n.tell(index)
}

// tell makes a port answer for the gateways and for what others own. The caller holds n.mu.
func (n *neighbours) tell(index int) error {
	for _, a := range n.gateways {
		if err := proxy(a, index); err != nil {
			return err
		}
	}
	for a, owner := range n.owners {
		if owner == index {
			continue
		}
		if err := proxy(a, index); err != nil {
			return err
		}
	}
	return nil
}

// removePort is for a link that goes; the kernel forgets what it was told about it.
func (n *neighbours) removePort(index int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports = slices.DeleteFunc(n.ports, func(i int) bool { return i == index })
}

func (n *neighbours) addAddr(a netip.Addr, owner int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.owners == nil {
		n.owners = map[netip.Addr]int{}
	}
	n.owners[a] = owner
	for _, index := range n.ports {
		if index == owner {
			continue
		}
		if err := proxy(a, index); err != nil {
			return err
		}
	}
	return nil
}

func (n *neighbours) removeAddr(a netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	owner, ok := n.owners[a]
	if !ok {
		return nil
	}
	delete(n.owners, a)
	var errs []error
	for _, index := range n.ports {
		if index != owner {
			errs = append(errs, ignoreGone(netlink.NeighDel(proxyOf(a, index)), "stop to answer for", a))
		}
	}
	return errors.Join(errs...)
}

// proxy makes a port answer for the address. A port that is gone needs not.
func proxy(a netip.Addr, index int) error {
	err := netlink.NeighSet(proxyOf(a, index))
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("answer for %s on link %d: %w", a, index, err)
	}
	return nil
}

func proxyOf(a netip.Addr, index int) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V6, Flags: netlink.NTF_PROXY, State: netlink.NUD_PERMANENT, IP: a.AsSlice()}
}
