package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/spf13/cobra"
)

func newSim() *cobra.Command {
	var listen, instanceType string
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Run a simulated Alibaba Cloud: the signed ECS and VPC API and the metadata service",
		Long: `Sim serves the API at / and the metadata service below /latest/, both over HTTP.

One instance exists. Point the agent at the address with cloud.endpoint and cloud.metadata. ENIs are objects only: for
real links, see "nearpath demo".`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := sim.DefaultConfig()
			cloud, err := sim.New(cfg)
			if err != nil {
				return err
			}
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return usageError{fmt.Errorf("--listen: %w", err)}
			}
			instance, _, err := cloud.RunInstance(cmd.Context(), sim.InstanceSpec{Type: instanceType, VSwitchID: sim.DefaultNodeVSwitch})
			if err != nil {
				return usageError{fmt.Errorf("--instance-type: %w", err)}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "serving %s on http://%s: access key %s, secret %s; whoever asks for metadata is %s\n",
				cfg.RegionID, l.Addr(), sim.DefaultAccessKey, sim.DefaultAccessSecret, instance.ID)
			return serve(cmd.Context(), l, cloud.Handler())
		},
	}
	cmd.Flags().StringVar(&instanceType, "instance-type", "ecs.sim.medium", "type of the one instance that exists")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8100", "address to listen on")
	return cmd
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
