package aliyun

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// The answers of the API, as far as they are read here. Every list sits in an object of its own
// ("Xs": {"X": [...]}), and numbers may come as strings.

type wireENIPage struct {
	NextToken string
	Sets      struct {
		Set []wireENI `json:"NetworkInterfaceSet"`
	} `json:"NetworkInterfaceSets"`
}

type wireENI struct {
	ID           string `json:"NetworkInterfaceId"`
	MAC          string `json:"MacAddress"`
	Type         string
	Status       string
	InstanceID   string `json:"InstanceId"`
	VPCID        string `json:"VpcId"`
	VSwitchID    string `json:"VSwitchId"`
	ZoneID       string `json:"ZoneId"`
	PrimaryIP    string `json:"PrivateIpAddress"`
	CreationTime string
	QueueNumber  json.Number
	Release      bool `json:"DeleteOnRelease"`
	PrivateIPs   struct {
		Set []struct {
			Address string `json:"PrivateIpAddress"`
			Primary bool
		} `json:"PrivateIpSet"`
	} `json:"PrivateIpSets"`
	IPv6s struct {
		Set []struct {
			Address string `json:"Ipv6Address"`
		} `json:"Ipv6Set"`
	} `json:"Ipv6Sets"`
	IPv4Prefixes struct {
		Set []struct {
			Prefix string `json:"Ipv4Prefix"`
		} `json:"Ipv4PrefixSet"`
	} `json:"Ipv4PrefixSets"`
	SecurityGroups struct {
		IDs []string `json:"SecurityGroupId"`
	} `json:"SecurityGroupIds"`
	Tags struct {
		Tag []struct {
			Key   string `json:"TagKey"`
			Value string `json:"TagValue"`
		}
	}
}

// eni checks what later code relies on: an ENI with an unreadable address is an error, not an ENI without it.
func (w *wireENI) eni() (ENI, error) {
	if w.ID == "" {
		return ENI{}, errors.New("answer has an ENI without an ID")
	}
	e := ENI{
		ID: w.ID, Type: w.Type, Status: w.Status, InstanceID: w.InstanceID,
		VPCID: w.VPCID, VSwitchID: w.VSwitchID, ZoneID: w.ZoneID,
		SecurityGroupIDs: w.SecurityGroups.IDs, DeleteOnRelease: w.Release,
	}
	if err := w.fill(&e); err != nil {
		return ENI{}, fmt.Errorf("read %s: %w", w.ID, err)
	}
	for _, t := range w.Tags.Tag {
		if e.Tags == nil {
			e.Tags = make(map[string]string, len(w.Tags.Tag))
		}
		e.Tags[t.Key] = t.Value
	}
	return e, nil
}

func (w *wireENI) fill(e *ENI) error {
	mac, err := net.ParseMAC(w.MAC)
	if err != nil {
		return err
	}
	e.MAC = mac.String()
	if e.Created, err = parseTime(w.CreationTime); err != nil {
		return err
	}
	if e.QueueNumber, err = optionalInt("QueueNumber", w.QueueNumber); err != nil {
		return err
	}
	return w.fillAddresses(e)
}

func (w *wireENI) fillAddresses(e *ENI) error {
	var err error
	if e.PrimaryIP, err = parseAddr(w.PrimaryIP, IPv4); err != nil {
		return err
	}
	e.PrivateIPs = []netip.Addr{e.PrimaryIP}
	for _, ip := range w.PrivateIPs.Set {
		a, err := parseAddr(ip.Address, IPv4)
		if err != nil {
			return err
		}
		if a != e.PrimaryIP {
			e.PrivateIPs = append(e.PrivateIPs, a)
		}
	}
	for _, ip := range w.IPv6s.Set {
		a, err := parseAddr(ip.Address, IPv6)
		if err != nil {
			return err
		}
		e.IPv6s = append(e.IPv6s, a)
	}
	for _, s := range w.IPv4Prefixes.Set {
		p, err := netip.ParsePrefix(s.Prefix)
		if err != nil {
			return err
		}
		e.IPv4Prefixes = append(e.IPv4Prefixes, p.Masked())
	}
	return nil
}

// wireAssigned is the answer of the assign actions of both families.
type wireAssigned struct {
	IPv4 struct {
		PrivateIPs struct {
			Addresses []string `json:"PrivateIpAddress"`
		} `json:"PrivateIpSet"`
	} `json:"AssignedPrivateIpAddressesSet"`
	IPv6 struct {
		Addresses []string `json:"Ipv6Address"`
	} `json:"Ipv6Sets"`
}

func (w *wireAssigned) addrs(f Family) ([]netip.Addr, error) {
	texts := w.IPv4.PrivateIPs.Addresses
	if f == IPv6 {
		texts = w.IPv6.Addresses
	}
	var addrs []netip.Addr
	for _, s := range texts {
		a, err := parseAddr(s, f)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, a)
	}
	if len(addrs) == 0 {
		return nil, errors.New("answer names no address")
	}
	return addrs, nil
}

type wireInstances struct {
	Instances struct {
		Instance []wireInstance
	}
}

type wireInstance struct {
	InstanceID    string `json:"InstanceId"`
	InstanceType  string
	RegionID      string `json:"RegionId"`
	ZoneID        string `json:"ZoneId"`
	VPCAttributes struct {
		VPCID     string `json:"VpcId"`
		VSwitchID string `json:"VSwitchId"`
	} `json:"VpcAttributes"`
	SecurityGroups struct {
		IDs []string `json:"SecurityGroupId"`
	} `json:"SecurityGroupIds"`
	EIP struct {
		Address string `json:"IpAddress"`
	} `json:"EipAddress"`
	PublicIPs struct {
		Addresses []string `json:"IpAddress"`
	} `json:"PublicIpAddress"`
}

func (w *wireInstance) instance() (Instance, error) {
	in := Instance{
		ID: w.InstanceID, Type: w.InstanceType, RegionID: w.RegionID, ZoneID: w.ZoneID,
		VPCID: w.VPCAttributes.VPCID, VSwitchID: w.VPCAttributes.VSwitchID, SecurityGroupIDs: w.SecurityGroups.IDs,
	}
	public := w.EIP.Address
	if public == "" && len(w.PublicIPs.Addresses) > 0 {
		public = w.PublicIPs.Addresses[0]
	}
	if public == "" {
		return in, nil
	}
	var err error
	if in.PublicIP, err = parseAddr(public, IPv4); err != nil {
		return Instance{}, fmt.Errorf("read the public address: %w", err)
	}
	return in, nil
}

type wireInstanceTypes struct {
	InstanceTypes struct {
		InstanceType []wireInstanceType
	}
}

type wireInstanceType struct {
	InstanceTypeID  string      `json:"InstanceTypeId"`
	ENIs            json.Number `json:"EniQuantity"`
	TotalENIs       json.Number `json:"EniTotalQuantity"`
	AddressesPerENI json.Number `json:"EniPrivateIpAddressQuantity"`
	IPv6PerENI      json.Number `json:"EniIpv6AddressQuantity"`
	QueuesPerENI    json.Number `json:"SecondaryEniQueueNumber"`
	MaxQueuesPerENI json.Number `json:"MaximumQueueNumberPerEni"`
}

func (w *wireInstanceType) instanceType() (InstanceType, error) {
	it := InstanceType{ID: w.InstanceTypeID}
	for _, f := range []struct {
		name   string
		number json.Number
		into   *int
		needed bool
	}{
		{"EniQuantity", w.ENIs, &it.ENIs, true},
		{"EniPrivateIpAddressQuantity", w.AddressesPerENI, &it.AddressesPerENI, true},
		{"EniTotalQuantity", w.TotalENIs, &it.TotalENIs, false},
		{"EniIpv6AddressQuantity", w.IPv6PerENI, &it.IPv6PerENI, false},
		{"SecondaryEniQueueNumber", w.QueuesPerENI, &it.QueuesPerENI, false},
		{"MaximumQueueNumberPerEni", w.MaxQueuesPerENI, &it.MaxQueuesPerENI, false},
	} {
		n, err := optionalInt(f.name, f.number)
		if err != nil {
			return InstanceType{}, err
		}
		if f.needed && f.number == "" {
			return InstanceType{}, fmt.Errorf("answer lacks %s", f.name)
		}
		*f.into = n
	}
	return it, nil
}

type wireVSwitches struct {
	VSwitches struct {
		VSwitch []wireVSwitch
	}
}

type wireVSwitch struct {
	VSwitchID  string      `json:"VSwitchId"`
	VPCID      string      `json:"VpcId"`
	ZoneID     string      `json:"ZoneId"`
	CIDR       string      `json:"CidrBlock"`
	IPv6CIDR   string      `json:"Ipv6CidrBlock"`
	Available  json.Number `json:"AvailableIpAddressCount"`
	RouteTable struct {
		ID string `json:"RouteTableId"`
	}
}

func (w *wireVSwitch) vSwitch() (VSwitch, error) {
	v := VSwitch{ID: w.VSwitchID, VPCID: w.VPCID, ZoneID: w.ZoneID, RouteTableID: w.RouteTable.ID}
	cidr, err := netip.ParsePrefix(w.CIDR)
	if err != nil {
		return VSwitch{}, fmt.Errorf("read CidrBlock: %w", err)
	}
	v.CIDR = cidr.Masked()
	if w.IPv6CIDR != "" {
		if cidr, err = netip.ParsePrefix(w.IPv6CIDR); err != nil {
			return VSwitch{}, fmt.Errorf("read Ipv6CidrBlock: %w", err)
		}
		v.IPv6CIDR = cidr.Masked()
	}
	if v.AvailableIPs, err = strconv.Atoi(w.Available.String()); err != nil {
		return VSwitch{}, fmt.Errorf("read AvailableIpAddressCount: %w", err)
	}
	return v, nil
}

type wireSecurityGroups struct {
	NextToken      string
	SecurityGroups struct {
		SecurityGroup []struct {
			ID             string `json:"SecurityGroupId"`
			VPCID          string `json:"VpcId"`
			Type           string `json:"SecurityGroupType"`
			ServiceManaged bool
		}
	}
}

// optionalInt is zero where the answer lacks the field, as it does for what an older API does not know.
func optionalInt(name string, n json.Number) (int, error) {
	if n == "" {
		return 0, nil
	}
	i, err := strconv.ParseUint(n.String(), 10, 31)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	return int(i), nil
}

func parseAddr(s string, f Family) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address %q: %w", s, err)
	}
	if FamilyOf(a) != f || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("address %q is not %v", s, f)
	}
	return a, nil
}

// parseTime reads the API's times, which come with and without seconds; empty is the zero time.
func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse("2006-01-02T15:04Z", s); err == nil {
		return t, nil
	}
	return time.Parse(time.RFC3339, s)
}
