//go:build node

package bpf

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// BenchmarkTrackedTable reports what the kernel takes for each thing that is done to the table of connections, as it is and as it would
// be with its room allocated when it is made. The smallest of many is reported: it is what is left when nobody else is at work.
func BenchmarkTrackedTable(b *testing.B) {
	for _, table := range []struct {
		name  string
		flags uint32
	}{{"as it is", unix.BPF_F_NO_PREALLOC}, {"allocated before", 0}} {
		spec, err := loadPacket()
		if err != nil {
			b.Fatal(err)
		}
		m := spec.Maps["tracked"].Copy()
		m.Flags, m.Pinning = table.flags, ebpf.PinNone
		m.Key, m.Value = nil, nil // types are for people
		tracked, err := ebpf.NewMap(m)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { tracked.Close() })
		serial, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { serial.Close() })
		steps := []tableStep{
			{name: "nothing"}, {name: "lookup, not there", do: tableCall(tracked, asm.FnMapLookupElem)},
			{name: "insert", do: tableCall(tracked, asm.FnMapUpdateElem)}, {name: "lookup", do: tableCall(tracked, asm.FnMapLookupElem)},
			{name: "replace", do: tableCall(tracked, asm.FnMapUpdateElem)},
		}
		least := leastOf(b, serial, steps)
		for i, step := range steps[1:] {
			b.Run(table.name+", "+step.name, func(b *testing.B) { b.ReportMetric(max(0, least[i+1]-least[0]), "ns/call") })
		}
	}
}

// A tableStep is what is done to the element of a key. Each step finds what the one before has left.
type tableStep struct {
	name string
	do   asm.Instructions
}

// tableKey and tableValue are where on the stack the two are, and tableIndex the index of the serial number.
const (
	tableKey   = -40
	tableValue = -88
	tableIndex = -96
)

// tableCall does something to the element of the key.
func tableCall(m *ebpf.Map, f asm.BuiltinFunc) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, m.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, tableKey),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, tableValue), asm.Mov.Imm(asm.R4, 0), f.Call(),
	}
}

// newTableProgram makes a program that does something with another key at each run.
func newTableProgram(b *testing.B, serial *ebpf.Map, do asm.Instructions) *ebpf.Program {
	b.Helper()
	is := asm.Instructions{
		asm.Mov.Imm(asm.R9, 0), asm.StoreMem(asm.RFP, tableIndex, asm.R9, asm.DWord), asm.LoadMapPtr(asm.R1, serial.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, tableIndex), asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "end"),
		asm.LoadMem(asm.R7, asm.R0, 0, asm.DWord), asm.Add.Imm(asm.R7, 1), asm.StoreMem(asm.R0, 0, asm.R7, asm.DWord),
	}
	for at := tableValue; at < 0; at += 8 {
		is = append(is, asm.StoreMem(asm.RFP, int16(at), asm.R9, asm.DWord))
	}
	is = append(is, asm.StoreMem(asm.RFP, tableKey, asm.R7, asm.DWord))
	is = append(is, do...)
	is = append(is, asm.Mov.Imm(asm.R0, 0).WithSymbol("end"), asm.Return())
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: is, License: "GPL"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

// leastOf is the time of a run of each step in the fastest twentieth of many parts, in nanoseconds.
func leastOf(b *testing.B, serial *ebpf.Map, steps []tableStep) (least []float64) {
	b.Helper()
	const parts, runs = 1000, 200
	programs, took := make([]*ebpf.Program, len(steps)), make([][]float64, len(steps))
	for i, step := range steps {
		programs[i] = newTableProgram(b, serial, step.do)
	}
	for part := range parts {
		for i, p := range programs {
			if err := serial.Put(uint32(0), uint64(part*runs)); err != nil {
				b.Fatal(err)
			}
			_, d, err := p.Benchmark(make([]byte, 64), runs, nil)
			if err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], float64(d.Nanoseconds()))
		}
	}
	for _, all := range took {
		slices.Sort(all)
		least = append(least, all[parts/20])
	}
	return least
}
