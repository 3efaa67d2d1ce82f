package opcmd

import (
	"net/http"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/model/manifest"
)

func deploymentCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{Use: "deployment", Short: "Say which modules edge gateways run"}
	cmd.AddCommand(setModules(env))
	return cmd
}

func setModules(env *Env) *cobra.Command {
	return &cobra.Command{
		Use: "set-modules DEVICE FILE", Short: "Give one edge gateway a deployment manifest",
		Long: "Give one edge gateway a deployment manifest. FILE is JSON as Azure's tools write it; - is standard input.\n" +
			"The manifest is checked here first, so that a mistake is found before anything changes.",
		Args: cobra.ExactArgs(2), ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := env.file(args[1])
			if err != nil {
				return err
			}
			content, err := manifest.Content(text)
			if err != nil {
				return err
			}
			_, err = env.ask(cmd, request{method: http.MethodPost,
				path: devicePath(args[0]) + "/applyConfigurationContent", body: content})
			if err != nil {
				return err
			}
			env.Print.Note("%s has a new deployment; watch it come up with: selvedge twin watch %s -m '$edgeAgent'", args[0], args[0])
			return nil
		},
	}
}
