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
	PrivateIPs   struct {
		Set []struct {
			Address string `json:"PrivateIpAddress"`
			Primary bool
		} `json:"PrivateIpSet"`
	} `json:"PrivateIpSets"`
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
	mac, err := net.ParseMAC(w.MAC)
	if err != nil {
		return ENI{}, fmt.Errorf("read %s: %w", w.ID, err)
	}
	primary, err := parseIPv4(w.PrimaryIP)
	if err != nil {
		return ENI{}, fmt.Errorf("read %s: %w", w.ID, err)
	}
	created, err := parseTime(w.CreationTime)
	if err != nil {
		return ENI{}, fmt.Errorf("read %s: %w", w.ID, err)
	}
	addrs := []netip.Addr{primary}
	for _, ip := range w.PrivateIPs.Set {
		a, err := parseIPv4(ip.Address)
		if err != nil {
			return ENI{}, fmt.Errorf("read %s: %w", w.ID, err)
		}
		if a != primary {
			addrs = append(addrs, a)
		}
	}
	var tags map[string]string
	if n := len(w.Tags.Tag); n > 0 {
		tags = make(map[string]string, n)
	}
	for _, t := range w.Tags.Tag {
		tags[t.Key] = t.Value
	}
	return ENI{
		ID: w.ID, MAC: mac.String(), Type: w.Type, Status: w.Status, InstanceID: w.InstanceID,
		VPCID: w.VPCID, VSwitchID: w.VSwitchID, ZoneID: w.ZoneID, PrimaryIP: primary, PrivateIPs: addrs,
		SecurityGroupIDs: w.SecurityGroups.IDs, Tags: tags, Created: created,
	}, nil
}

type wireAssigned struct {
	Set struct {
		PrivateIPs struct {
			Addresses []string `json:"PrivateIpAddress"`
		} `json:"PrivateIpSet"`
	} `json:"AssignedPrivateIpAddressesSet"`
}

func (w *wireAssigned) addrs() ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, s := range w.Set.PrivateIPs.Addresses {
		a, err := parseIPv4(s)
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
}

func (w *wireInstance) instance() Instance {
	return Instance{
		ID: w.InstanceID, Type: w.InstanceType, RegionID: w.RegionID, ZoneID: w.ZoneID,
		VPCID: w.VPCAttributes.VPCID, VSwitchID: w.VPCAttributes.VSwitchID, SecurityGroupIDs: w.SecurityGroups.IDs,
	}
}

type wireInstanceTypes struct {
	InstanceTypes struct {
		InstanceType []wireInstanceType
	}
}

type wireInstanceType struct {
	InstanceTypeID  string      `json:"InstanceTypeId"`
	ENIs            json.Number `json:"EniQuantity"`
	AddressesPerENI json.Number `json:"EniPrivateIpAddressQuantity"`
}

func (w *wireInstanceType) instanceType() (InstanceType, error) {
	enis, err := strconv.Atoi(w.ENIs.String())
	if err != nil {
		return InstanceType{}, fmt.Errorf("read EniQuantity: %w", err)
	}
	addrs, err := strconv.Atoi(w.AddressesPerENI.String())
	if err != nil {
		return InstanceType{}, fmt.Errorf("read EniPrivateIpAddressQuantity: %w", err)
	}
	return InstanceType{ID: w.InstanceTypeID, ENIs: enis, AddressesPerENI: addrs}, nil
}

type wireVSwitches struct {
	VSwitches struct {
		VSwitch []wireVSwitch
	}
}

type wireVSwitch struct {
	VSwitchID string      `json:"VSwitchId"`
	VPCID     string      `json:"VpcId"`
	ZoneID    string      `json:"ZoneId"`
	CIDR      string      `json:"CidrBlock"`
	Available json.Number `json:"AvailableIpAddressCount"`
}

func (w *wireVSwitch) vSwitch() (VSwitch, error) {
	cidr, err := netip.ParsePrefix(w.CIDR)
	if err != nil {
		return VSwitch{}, fmt.Errorf("read CidrBlock: %w", err)
	}
	free, err := strconv.Atoi(w.Available.String())
	if err != nil {
		return VSwitch{}, fmt.Errorf("read AvailableIpAddressCount: %w", err)
	}
	return VSwitch{ID: w.VSwitchID, VPCID: w.VPCID, ZoneID: w.ZoneID, CIDR: cidr.Masked(), AvailableIPs: free}, nil
}

func parseIPv4(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address %q: %w", s, err)
	}
	if !a.Is4() {
		return netip.Addr{}, fmt.Errorf("address %q is not IPv4", s)
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
