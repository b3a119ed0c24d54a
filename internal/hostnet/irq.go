package hostnet

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Queues is what the kernel shows of a network device's queues.
type Queues struct {
	Link string // the link's name
	IRQs []IRQ  // empty for a device without hardware, such as a veth pair
	// TX are the CPUs that send by each queue (XPS). Nil for one queue, and for a kernel without XPS.
	TX [][]int
}

// An IRQ is an interrupt of a device.
type IRQ struct {
	Number int
	Action string // who handles it, such as virtio1-input.0; empty if nobody does
	CPUs   []int  // that it may go to
}

// Write is the change that Spread asks for: it writes a value to a file of procfs or sysfs.
type Write struct{ Path, Value string } // the path without the leading slash

func (o Write) String() string { return fmt.Sprintf("echo %s > /%s", o.Value, o.Path) }

func setIRQ(number, cpu int) Write {
	return Write{fmt.Sprintf("proc/irq/%d/smp_affinity_list", number), strconv.Itoa(cpu)}
}

func setXPS(link string, queue int, cpus []int) Write {
	return Write{fmt.Sprintf("sys/class/net/%s/queues/tx-%d/xps_cpus", link, queue), formatMask(cpus)}
}

// Spread returns what sends the interrupts of the queues of one ENI to CPUs as far from each other as can be, and lets
// each CPU send by the queue whose interrupt is next to it. A queue's interrupts for both directions go to one CPU.
// Drivers start at the first CPU for every device, so that all ENIs' first queues meet there; here an ENI starts one CPU
// after the ENI of the slot before. The CPUs must be sorted.
func Spread(slot int, q Queues, cpus []int) (ops []Write) {
	numbers := queueNumbers(q)
	if len(numbers) == 0 || len(cpus) == 0 {
		return nil
	}
	for _, irq := range q.IRQs {
		number, ok := queueOf(irq.Action, q.Link)
		if !ok {
			continue
		}
		i, _ := slices.BinarySearch(numbers, number)
		if cpu := share(slot, i, len(numbers), cpus)[0]; !slices.Equal(irq.CPUs, []int{cpu}) {
			ops = append(ops, setIRQ(irq.Number, cpu))
		}
	}
	for i, have := range q.TX {
		want := slices.Sorted(slices.Values(share(slot, i, len(q.TX), cpus)))
		if !slices.Equal(have, want) {
			ops = append(ops, setXPS(q.Link, i, want))
		}
	}
	return ops
}

// share is the part of the CPUs, at least one, that queue i of n has.
func share(slot, i, n int, cpus []int) (part []int) {
	from, to := i*len(cpus)/n, (i+1)*len(cpus)/n
	for k := from; k < max(to, from+1); k++ {
		part = append(part, cpus[(slot-1+k)%len(cpus)])
	}
	return part
}

// queueNumbers are those of the device's queues with interrupts, sorted.
func queueNumbers(q Queues) (numbers []int) {
	for _, irq := range q.IRQs {
		if number, ok := queueOf(irq.Action, q.Link); ok {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return slices.Compact(numbers)
}

// queueOf reads the number of the queue from the name of an interrupt's action: virtio1-input.0, eth1-TxRx-3,
// mlx5_comp2@pci:0000:00:06.0. The name of the link alone is that of a device with one queue. Others are for
// configuration (virtio1-config), or of nobody.
func queueOf(action, link string) (number int, ok bool) {
	if action == link && link != "" {
		return 0, true
	}
	name, _, _ := strings.Cut(action, "@")
	number, err := strconv.Atoi(name[len(strings.TrimRight(name, "0123456789")):])
	return number, err == nil
}

// parseList reads a list of CPUs as the kernel writes it, such as 0-3,8.
func parseList(text string) (cpus []int, err error) {
	for part := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		if part == "" {
			continue
		}
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err := cmp.Or(err, err2); err != nil {
			return nil, fmt.Errorf("list of CPUs %q: %w", text, err)
		}
		for cpu := from; cpu <= to; cpu++ {
			cpus = append(cpus, int(cpu))
		}
	}
	slices.Sort(cpus)
	return slices.Compact(cpus), nil
}

// maskBits is the size of the groups that a mask of CPUs is written in.
const maskBits = 32

// parseMask reads a mask of CPUs: hexadecimal groups of 32 bits, the first CPUs last.
func parseMask(text string) (cpus []int, err error) {
	groups := strings.Split(strings.TrimSpace(text), ",")
	slices.Reverse(groups)
	for i, g := range groups {
		bits, err := strconv.ParseUint(g, 16, maskBits)
		if err != nil {
			return nil, fmt.Errorf("mask of CPUs %q: %w", text, err)
		}
		for k := range maskBits {
			if bits>>k&1 != 0 {
				cpus = append(cpus, i*maskBits+k)
			}
		}
	}
	return cpus, nil
}

func formatMask(cpus []int) string {
	groups := make([]uint32, slices.Max(append([]int{0}, cpus...))/maskBits+1)
	for _, cpu := range cpus {
		groups[cpu/maskBits] |= 1 << (cpu % maskBits)
	}
	texts := make([]string, 0, len(groups))
	for _, g := range slices.Backward(groups) {
		texts = append(texts, fmt.Sprintf("%08x", g))
	}
	return strings.Join(texts, ",")
}
