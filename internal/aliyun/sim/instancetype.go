package sim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// An InstanceType is an instance type with everything the API says about it that bears on networking. Zero fields mean
// that it has none of them; TotalENIs zero means as many as ENIs.
type InstanceType struct {
	aliyun.InstanceType
	CPUs      int
	MemoryGiB float64
	// PrimaryQueues is what the primary ENI has (PrimaryEniQueueNumber). TotalQueues bounds the queues of all ENIs
	// (TotalEniQueueQuantity); zero: there is no bound.
	PrimaryQueues, TotalQueues int
	// Bandwidth in each direction, in kbit/s, and packets per second.
	Bandwidth, PPS int
}

// limit is how many slots an ENI has.
func (t *InstanceType) limit(f aliyun.Family) int {
	if f == aliyun.IPv6 {
		return t.IPv6PerENI
	}
	return t.AddressesPerENI
}

// family is the ID without its size.
func (t *InstanceType) family() string {
	if i := strings.LastIndexByte(t.ID, '.'); i > 0 {
		return t.ID[:i]
	}
	return t.ID
}

// defaultTypes are modelled on sizes of the seventh generation; their addresses per ENI are those of smaller ones, so that
// limits are near.
func defaultTypes() []InstanceType {
	return []InstanceType{
		sized("tiny", aliyun.InstanceType{ENIs: 1, AddressesPerENI: 1}, 1, 1),
		sized("small", aliyun.InstanceType{ENIs: 2, AddressesPerENI: 4, IPv6PerENI: 4, QueuesPerENI: 2, MaxQueuesPerENI: 2}, 2, 4),
		sized("medium", aliyun.InstanceType{ENIs: 3, AddressesPerENI: 6, IPv6PerENI: 6, QueuesPerENI: 2, MaxQueuesPerENI: 2}, 2, 8),
		sized("large", aliyun.InstanceType{ENIs: 4, AddressesPerENI: 15, IPv6PerENI: 15, QueuesPerENI: 4, MaxQueuesPerENI: 8}, 4, 24),
		sized("xlarge", aliyun.InstanceType{ENIs: 8, AddressesPerENI: 30, IPv6PerENI: 30, QueuesPerENI: 8, MaxQueuesPerENI: 16}, 8, 72),
	}
}

// sized fills in what follows from the number of CPUs.
func sized(size string, limits aliyun.InstanceType, cpus, totalQueues int) InstanceType {
	limits.ID, limits.TotalENIs = "ecs.sim."+size, limits.ENIs
	return InstanceType{
		InstanceType: limits, CPUs: cpus, MemoryGiB: float64(4 * cpus), PrimaryQueues: max(1, min(cpus, 8)), TotalQueues: totalQueues,
		Bandwidth: 1024000 * cpus, PPS: 250000 * cpus,
	}
}

var describeInstanceTypesParams = []string{
	"InstanceTypes.N", "InstanceTypeFamily", "MinimumEniQuantity", "NextToken", "MaxResults",
}

func (c *Cloud) describeInstanceTypes(in input) (object, error) {
	wanted := in.list("InstanceTypes")
	if len(wanted) > 10 {
		return nil, invalid("InstanceTypes.N", fmt.Sprint(len(wanted), " values"))
	}
	least, err := in.number("MinimumEniQuantity", 1000, 0)
	if err != nil {
		return nil, err
	}
	var found []*InstanceType
	var seqs []int
	for i := range c.cfg.InstanceTypes {
		t := &c.cfg.InstanceTypes[i]
		if (len(wanted) == 0 || slices.Contains(wanted, t.ID)) && matches(in, "InstanceTypeFamily", t.family()) && t.ENIs >= least {
			found, seqs = append(found, t), append(seqs, i+1)
		}
	}
	pg, err := typesPage(in, seqs)
	if err != nil {
		return nil, err
	}
	items := []object{}
	for _, t := range found[pg.start:pg.end] {
		items = append(items, t.describe())
	}
	return object{"InstanceTypes": object{"InstanceType": items}, "NextToken": pg.next}, nil
}

// typesPage knows no numbered pages and shows up to 100 types unless told.
func typesPage(in input, seqs []int) (page, error) {
	byToken := input{"NextToken": in.text("NextToken"), "MaxResults": orDefault(in.text("MaxResults"), "100")}
	return tokenPage(byToken, seqs, 100)
}

func (t *InstanceType) describe() object {
	total := t.TotalENIs
	if total == 0 {
		total = t.ENIs
	}
	return object{
		"InstanceTypeId": t.ID, "InstanceTypeFamily": t.family(), "CpuCoreCount": t.CPUs, "MemorySize": t.MemoryGiB,
		"CpuArchitecture": "X86", "EniQuantity": t.ENIs, "EniTotalQuantity": total,
		"EniPrivateIpAddressQuantity": t.AddressesPerENI, "EniIpv6AddressQuantity": t.IPv6PerENI, "EniTrunkSupported": false,
		"EriQuantity": 0, "PrimaryEniQueueNumber": t.PrimaryQueues, "SecondaryEniQueueNumber": t.QueuesPerENI,
		"MaximumQueueNumberPerEni": t.MaxQueuesPerENI, "TotalEniQueueQuantity": t.TotalQueues, "QueuePairNumber": 0,
		"NetworkCardQuantity": 1, "NetworkCards": object{"NetworkCardInfo": []object{{"NetworkCardIndex": 0}}},
		"InstanceBandwidthRx": t.Bandwidth, "InstanceBandwidthTx": t.Bandwidth, "InstancePpsRx": t.PPS, "InstancePpsTx": t.PPS,
		"JumboFrameSupport": false,
	}
}
