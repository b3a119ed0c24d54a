package sim

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// familyNames are the names by which the API treats a family.
type familyNames struct {
	addr, count         string // parameters of addresses by name and by number
	prefix, prefixCount string
	assign, unassign    int    // most addresses of one call
	exceeded            string // code for more than the instance type allows
}

var namesOf = map[aliyun.Family]familyNames{
	aliyun.IPv4: {
		addr: "PrivateIpAddress", count: "SecondaryPrivateIpAddressCount", prefix: "Ipv4Prefix", prefixCount: "Ipv4PrefixCount",
		assign: 49, unassign: 32, exceeded: codeIPv4Exceeded,
	},
	aliyun.IPv6: {
		addr: "Ipv6Address", count: "Ipv6AddressCount", prefix: "Ipv6Prefix", prefixCount: "Ipv6PrefixCount",
		assign: 10, unassign: 10, exceeded: codeIPv6Exceeded,
	},
}

// maxPrefixes bounds the prefixes of one call.
const maxPrefixes = 10

var (
	assignParams = []string{
		"NetworkInterfaceId", "PrivateIpAddress.N", "SecondaryPrivateIpAddressCount", "Ipv4Prefix.N", "Ipv4PrefixCount", "ClientToken",
	}
	assignIPv6Params = []string{
		"NetworkInterfaceId", "Ipv6Address.N", "Ipv6AddressCount", "Ipv6Prefix.N", "Ipv6PrefixCount", "ClientToken",
	}
	unassignParams     = []string{"NetworkInterfaceId", "PrivateIpAddress.N", "Ipv4Prefix.N"}
	unassignIPv6Params = []string{"NetworkInterfaceId", "Ipv6Address.N", "Ipv6Prefix.N"}
)

func (c *Cloud) assignIPs(in input) (object, error) {
	id, g, err := c.assign(in, aliyun.IPv4)
	if err != nil {
		return nil, err
	}
	return object{"AssignedPrivateIpAddressesSet": object{
		"NetworkInterfaceId": id,
		"PrivateIpSet":       object{"PrivateIpAddress": addrTexts(g.addrs)},
		"Ipv4PrefixSet":      object{"Ipv4Prefixes": texts(g.prefixes)},
	}}, nil
}

func (c *Cloud) assignIPv6s(in input) (object, error) {
	id, g, err := c.assign(in, aliyun.IPv6)
	if err != nil {
		return nil, err
	}
	return object{
		"NetworkInterfaceId": id,
		"Ipv6Sets":           object{"Ipv6Address": addrTexts(g.addrs)},
		"Ipv6PrefixSets":     object{"Ipv6Prefix": []string{}},
	}, nil
}

func (c *Cloud) assign(in input, f aliyun.Family) (string, grant, error) {
	id, err := in.need("NetworkInterfaceId")
	if err != nil {
		return "", grant{}, err
	}
	w, err := readWant(in, f, namesOf[f].assign)
	if err != nil {
		return "", grant{}, err
	}
	if w.slots() == 0 {
		return "", grant{}, missing(namesOf[f].count)
	}
	var g grant
	err = c.withENI(id, func(e *eni) error {
		if g, err = c.takeFor(e, w); err != nil {
			return err
		}
		return c.commitGrant(e, g)
	})
	return id, g, err
}

// readWant reads what a request asks of one family: addresses or prefixes, by name or by number.
func readWant(in input, f aliyun.Family, most int) (want, error) {
	w, names := want{family: f}, namesOf[f]
	var err error
	if w.addrs, err = in.addresses(names.addr, f); err != nil {
		return w, err
	}
	if w.count, err = in.number(names.count, most, 0); err != nil {
		return w, err
	}
	if w.prefixes, err = in.prefixes(names.prefix, f); err != nil {
		return w, err
	}
	if w.prefixCount, err = in.prefixCount(f); err != nil {
		return w, err
	}
	switch {
	case len(w.addrs) > 0 && w.count > 0, len(w.addrs) > most:
		return w, invalid(names.addr+".N", fmt.Sprint(w.addrs))
	case len(w.prefixes) > 0 && w.prefixCount > 0, len(w.prefixes) > maxPrefixes:
		return w, invalid(names.prefix+".N", fmt.Sprint(w.prefixes))
	case len(w.addrs)+w.count > 0 && len(w.prefixes)+w.prefixCount > 0:
		return w, refuse(codeInvalidParameter, "Addresses and prefixes cannot be asked for in one request.")
	}
	return w, nil
}

// prefixes returns a list of delegated prefixes.
func (in input) prefixes(name string, f aliyun.Family) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, s := range in.list(name) {
		if f == aliyun.IPv6 {
			return nil, noIPv6Prefixes(name)
		}
		p, err := netip.ParsePrefix(s)
		if err != nil || !p.Addr().Is4() || p.Bits() != delegatedBits || p != p.Masked() {
			return nil, invalid(name+".N", s)
		}
		if slices.Contains(prefixes, p) {
			return nil, refuse(codeIPRepeated, "The prefix %s is repeated.", p)
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, nil
}

func (in input) prefixCount(f aliyun.Family) (int, error) {
	name := namesOf[f].prefixCount
	if f == aliyun.IPv6 && in.text(name) != "" {
		return 0, noIPv6Prefixes(name)
	}
	return in.number(name, maxPrefixes, 0)
}

func noIPv6Prefixes(name string) error {
	return refuse(codeUnsupportedParameter, "The parameter %q is not supported: no instance type here has IPv6 prefixes.", name)
}

// takeFor checks state and limits of the ENI and takes addresses from its vSwitch.
func (c *Cloud) takeFor(e *eni, w want) (grant, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := e.mayChange("assign addresses"); err != nil {
		return grant{}, err
	}
	if err := c.withinLimit(e, w.family, w.slots()); err != nil {
		return grant{}, err
	}
	if w.family == aliyun.IPv4 {
		if err := c.room(e.SecurityGroupIDs, w.slots()); err != nil {
			return grant{}, err
		}
	}
	return e.subnet.take(w)
}

// mayChange checks that addresses of the ENI may change.
func (e *eni) mayChange(what string) error {
	if e.Status != aliyun.StatusAvailable && e.Status != aliyun.StatusInUse {
		return refuse(codeEniState, "The ENI %s is %s, which does not allow to %s.", e.ID, e.Status, what)
	}
	return nil
}

// withinLimit checks what n more slots of the family mean for the ENI where it is. The caller holds c.mu.
func (c *Cloud) withinLimit(e *eni, f aliyun.Family, n int) error {
	limit := maxAddresses[f]
	if in := c.instances[e.InstanceID]; in != nil {
		limit = in.limits.limit(f)
	}
	total := e.slots(f) + n
	switch {
	case total <= limit:
		return nil
	case limit == 0:
		return refuse(codeNoIPv6, "The instanceType of %s not support ipv6.", e.InstanceID)
	}
	return refuse(namesOf[f].exceeded, "The ENI %s would have %d %v addresses, the limit is %d.", e.ID, total, f, limit)
}

// commitGrant makes taken addresses work, or gives them back. The caller holds e.op and not c.mu.
func (c *Cloud) commitGrant(e *eni, g grant) error {
	var err error
	if e.plugged {
		if err = c.cfg.Fabric.AddAddrs(e.ID, g.all()); err != nil {
			err = c.fabricError("add addresses", e.ID, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		e.subnet.release(g)
		return err
	}
	c.add(e, g)
	c.note(e)
	return nil
}

func (c *Cloud) unassignIPs(in input) (object, error)   { return c.unassign(in, aliyun.IPv4) }
func (c *Cloud) unassignIPv6s(in input) (object, error) { return c.unassign(in, aliyun.IPv6) }

func (c *Cloud) unassign(in input, f aliyun.Family) (object, error) {
	id, err := in.need("NetworkInterfaceId")
	if err != nil {
		return nil, err
	}
	names := namesOf[f]
	var g grant
	if g.addrs, err = in.addresses(names.addr, f); err != nil {
		return nil, err
	}
	if g.prefixes, err = in.prefixes(names.prefix, f); err != nil {
		return nil, err
	}
	if len(g.addrs)+len(g.prefixes) == 0 {
		return nil, missing(names.addr)
	}
	if len(g.addrs) > names.unassign || len(g.prefixes) > maxPrefixes {
		return nil, invalid(names.addr+".N", fmt.Sprint(len(g.addrs)+len(g.prefixes), " values"))
	}
	err = c.withENI(id, func(e *eni) error {
		if err := c.mayUnassign(e, g); err != nil {
			return err
		}
		if e.plugged {
			if err := c.cfg.Fabric.RemoveAddrs(e.ID, g.all()); err != nil {
				return c.fabricError("remove addresses", e.ID, err)
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.remove(e, g)
		c.note(e)
		return nil
	})
	return object{}, err
}

func (c *Cloud) mayUnassign(e *eni, g grant) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := e.mayChange("unassign addresses"); err != nil {
		return err
	}
	for _, a := range g.addrs {
		if a == e.PrimaryIP {
			return refuse(codeIPAddress, "The address %s is the primary one of %s.", a, e.ID)
		}
		if !slices.Contains(*e.addrs(aliyun.FamilyOf(a)), a) {
			return refuse(codeIPUnassigned, "The address %s is not assigned to %s.", a, e.ID)
		}
	}
	for _, p := range g.prefixes {
		if !slices.Contains(e.IPv4Prefixes, p) {
			return refuse(codeIPUnassigned, "The prefix %s is not assigned to %s.", p, e.ID)
		}
	}
	return nil
}

func addrTexts(addrs []netip.Addr) []string {
	out := []string{}
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}
