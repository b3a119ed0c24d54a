package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

func newSim() *cobra.Command {
	var listen, dns, config, output string
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Run a simulated Alibaba Cloud: the signed ECS, VPC, STS and PrivateZone API and the metadata service",
		Long: `Sim serves the API at /, the metadata service below /latest/ and, for one of several instances, below
/instances/ID/latest/, all over HTTP. /sim/calls shows the calls and /sim/faults makes them fail. With --dns it resolves the
names of PrivateZone as the VPC would, over UDP and TCP.

It prints where everything is and which keys there are, one NAME=VALUE to a line, and then serves until it is stopped.
Without --config there is one instance. ENIs are objects only: for real links, see "nearpath demo".`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "lines" && output != "json" {
				return usageError{fmt.Errorf("--output %q: use lines or json", output)}
			}
			return runSim(cmd, listen, dns, config, output)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "YAML file that says what there is and how it behaves")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8100", "address to listen on; port 0 is a free one")
	cmd.Flags().StringVar(&dns, "dns", "", "address to answer DNS queries of the VPC at; port 0 is a free one; empty: nowhere")
	cmd.Flags().StringVarP(&output, "output", "o", "lines", "lines or json")
	return cmd
}

func runSim(cmd *cobra.Command, listen, dns, path, output string) error {
	cfg, specs, err := simConfig(path)
	if err != nil {
		return usageError{err}
	}
	cfg.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	cloud, err := sim.New(cfg)
	if err != nil {
		return usageError{err}
	}
	defer func() { _ = cloud.Close() }() // it never fails
	instances, err := cloud.RunInstances(cmd.Context(), specs)
	if err != nil {
		return usageError{err}
	}
	l, err := new(net.ListenConfig).Listen(cmd.Context(), "tcp", listen)
	if err != nil {
		return usageError{fmt.Errorf("--listen: %w", err)}
	}
	group, ctx := errgroup.WithContext(cmd.Context())
	group.Go(func() error { return serve(ctx, l, cloud.Handler()) })
	group.Go(func() error {
		view := viewSim("http://"+l.Addr().String(), cfg, instances)
		names, err := listenNames(ctx, cloud.PrivateZone().Resolver(cfg.VPCID), dns)
		if err != nil {
			return err
		}
		if names != nil {
			view.DNS = names.Addr().String()
			group.Go(func() error { return names.Run(ctx) })
		}
		if output == "json" {
			return view.json(cmd.OutOrStdout())
		}
		return view.lines(cmd.OutOrStdout())
	})
	return group.Wait()
}

// listenNames opens the address for DNS; empty: nil.
func listenNames(ctx context.Context, r *sim.Resolver, address string) (*sim.DNSServer, error) {
	if address == "" {
		return nil, nil
	}
	server, err := r.Listen(ctx, "dns", address)
	if err != nil {
		return nil, usageError{fmt.Errorf("--dns: %w", err)}
	}
	return server, nil
}

// simConfig reads the file, or is a cloud with one instance without one.
func simConfig(path string) (sim.Config, []sim.InstanceSpec, error) {
	if path != "" {
		return sim.ReadConfig(path)
	}
	return sim.DefaultConfig(), []sim.InstanceSpec{{Type: "ecs.sim.medium", VSwitchID: sim.DefaultNodeVSwitch}}, nil
}

// A simView says where the parts of a simulated cloud are.
type simView struct {
	Region     string        `json:"region"`
	ECS        string        `json:"ecs"`
	VPC        string        `json:"vpc"`
	STS        string        `json:"sts"`
	PVTZ       string        `json:"pvtz"`
	DNS        string        `json:"dns,omitempty"` // host and port
	Metadata   string        `json:"metadata"`
	Control    string        `json:"control"`
	Role       string        `json:"role"`
	AccessKeys []simKey      `json:"accessKeys"`
	Instances  []simInstance `json:"instances"`
}

type simKey struct {
	ID     string `json:"id"`
	Secret string `json:"secret"`
}

// A simInstance has the metadata service under a path of its own, since all callers on this machine look the same.
type simInstance struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Metadata string `json:"metadata"`
}

func viewSim(url string, cfg sim.Config, instances []aliyun.Instance) simView {
	v := simView{
		Region: cfg.RegionID, ECS: url, VPC: url, STS: url, PVTZ: url, Metadata: url, Control: url + "/sim/", Role: cfg.RAMRole,
		AccessKeys: []simKey{}, Instances: []simInstance{},
	}
	for _, id := range slices.Sorted(maps.Keys(cfg.AccessKeys)) {
		v.AccessKeys = append(v.AccessKeys, simKey{id, cfg.AccessKeys[id]})
	}
	for _, in := range instances {
		v.Instances = append(v.Instances, simInstance{in.ID, in.Type, url + "/instances/" + in.ID})
	}
	return v
}

// lines prints names and values; of keys and instances there may be several, with a number in their names from the second
// on.
func (v simView) lines(w io.Writer) error {
	pairs := [][2]string{
		{"REGION", v.Region}, {"ECS_ENDPOINT", v.ECS}, {"VPC_ENDPOINT", v.VPC}, {"STS_ENDPOINT", v.STS}, {"PVTZ_ENDPOINT", v.PVTZ},
		{"METADATA", v.Metadata}, {"CONTROL", v.Control}, {"ROLE", v.Role},
	}
	if v.DNS != "" {
		pairs = append(pairs, [2]string{"DNS", v.DNS})
	}
	for i, k := range v.AccessKeys {
		pairs = append(pairs, [2]string{"ACCESS_KEY_ID" + suffix(i), k.ID}, [2]string{"ACCESS_KEY_SECRET" + suffix(i), k.Secret})
	}
	for i, in := range v.Instances {
		pairs = append(pairs, [2]string{"INSTANCE" + suffix(i), in.ID}, [2]string{"INSTANCE_METADATA" + suffix(i), in.Metadata})
	}
	var err error
	for _, p := range pairs {
		_, werr := fmt.Fprintf(w, "%s=%s\n", p[0], p[1])
		err = cmp.Or(err, werr)
	}
	return err
}

func suffix(i int) string {
	if i == 0 {
		return ""
	}
	return fmt.Sprintf("_%d", i+1)
}

func (v simView) json(w io.Writer) error {
	return json.NewEncoder(w).Encode(v)
}

// serve serves HTTP until the context ends.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
