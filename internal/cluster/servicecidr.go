package cluster

import (
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	netutils "k8s.io/utils/net"
)

// A ServiceCIDR is the part of a networking.k8s.io/v1 ServiceCIDR the node acts on. It is immutable once it is in a
// Snapshot.
type ServiceCIDR struct {
	Name string
	// CIDRs are what Services get cluster IPs from, masked, also while the object is being deleted.
	CIDRs []netip.Prefix
}

func (c *ServiceCIDR) name() Name { return Name{Name: c.Name} }

func (c *ServiceCIDR) equal(o *ServiceCIDR) bool {
	return c.Name == o.Name && slices.Equal(c.CIDRs, o.CIDRs)
}

// ServiceCIDRFrom converts a ServiceCIDR of the API. Errors name the object and the field.
func ServiceCIDRFrom(in *networkingv1.ServiceCIDR) (*ServiceCIDR, error) {
	c := &ServiceCIDR{Name: in.Name}
	if err := c.convert(in.Spec.CIDRs); err != nil {
		return nil, fmt.Errorf("convert ServiceCIDR %s: %w", in.Name, err)
	}
	return c, nil
}

func (c *ServiceCIDR) convert(texts []string) error {
	for i, text := range texts {
		prefix, err := parsePrefix(text)
		if err != nil {
			return fmt.Errorf("spec.cidrs[%d]: %w", i, err)
		}
		c.CIDRs = append(c.CIDRs, prefix)
	}
	return nil
}

// parsePrefix is parseAddr for ranges.
func parsePrefix(text string) (netip.Prefix, error) {
	_, ipNet, err := netutils.ParseCIDRSloppy(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a range of addresses", text)
	}
	addr, _ := netip.AddrFromSlice(ipNet.IP)
	bits, _ := ipNet.Mask.Size()
	return netip.PrefixFrom(addr, bits), nil
}

// ServiceCIDRs returns what Services get cluster IPs from, sorted and each once. It is empty where the API has no such
// objects, which Kubernetes before 1.33 does not, and until they have been listed: nothing waits for them.
func (s *Snapshot) ServiceCIDRs() []netip.Prefix {
	var all []netip.Prefix
	for c := range values(s.serviceCIDRs) {
		all = append(all, c.CIDRs...)
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

// PutServiceCIDR adds a ServiceCIDR or replaces the one of that name.
func (e *Edit) PutServiceCIDR(c *ServiceCIDR) { putObject(e, &e.next.serviceCIDRs, ServiceCIDRs, c) }

// DeleteServiceCIDR removes a ServiceCIDR.
func (e *Edit) DeleteServiceCIDR(name string) {
	deleteObject(e, &e.next.serviceCIDRs, ServiceCIDRs, Name{Name: name})
}
