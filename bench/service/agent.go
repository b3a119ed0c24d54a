package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nearpath/nearpath/bench/agentnode"
	"github.com/nearpath/nearpath/bench/measure"
)

// instanceType is that of the smallest node.
const instanceType = "ecs.sim.large"

// resident measures the memory of a whole agent that serves all of it, with its DNS, pool and CNI.
func (b *bed) resident() measure.Series {
	s := measure.Series{
		Name: "agent memory", Rounds: 1,
		What: fmt.Sprintf("a whole agent that serves %s, as the kernel counts its pages (VmRSS) when it is ready, and at its largest (VmHWM)", large),
		Metrics: []measure.Metric{
			{Name: "resident", What: "resident", Unit: "MiB"},
			{Name: "peak", What: "at its largest", Unit: "MiB"},
		},
	}
	s.Cases = []measure.Case{{Name: b.path.name, Role: b.path.role, Round: func(ctx context.Context) (samples measure.Samples, err error) {
		manifests, err := manifestsOf(clusterOf(large))
		if err != nil {
			return nil, err
		}
		n, err := agentnode.Start(ctx, agentnode.Spec{Prefix: prefix + "-agent", Bin: b.bin, InstanceType: instanceType, Manifests: manifests})
		defer func() { err = errors.Join(err, n.Close()) }()
		if err != nil {
			return nil, err
		}
		resident, peak, err := n.MemoryMiB()
		return measure.Samples{"resident": {resident}, "peak": {peak}}, err
	}}}
	return s
}

// manifestsOf are files of a thousand Services each. JSON is YAML, too.
func manifestsOf(o Objects) (map[string]string, error) {
	documents, err := o.documents()
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for i, part := 0, []json.RawMessage(nil); len(documents) > 0; i++ {
		part, documents = documents[:min(2000, len(documents))], documents[min(2000, len(documents)):]
		files[fmt.Sprintf("services-%d.yaml", i)] = string(bytes.Join(asBytes(part), []byte("\n---\n")))
	}
	return files, nil
}

func asBytes(documents []json.RawMessage) (out [][]byte) {
	for _, d := range documents {
		out = append(out, d)
	}
	return out
}
