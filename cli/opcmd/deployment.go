package opcmd

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/lang/route"
	"github.com/selvedge-io/selvedge/model/manifest"
)

func deploymentCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{Use: "deployment", Short: "Say which modules edge gateways run"}
	cmd.AddCommand(setModules(env))
	return cmd
}

func setModules(env *Env) *cobra.Command {
	var unchecked bool
	cmd := &cobra.Command{
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
			if err == nil && !unchecked {
				err = checkRoutes(content)
			}
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
	cmd.Flags().BoolVar(&unchecked, "unchecked-routes", false, "leave judging the routes to the gateway, which may know more")
	return cmd
}

// checkRoutes compiles the routes of a manifest as a gateway of ours will.
func checkRoutes(content []byte) error {
	texts, err := manifest.Routes(content)
	if err != nil {
		return err
	}
	for name, text := range sorted(texts) {
		if _, err := route.New([]route.Def{{Name: name, Text: text}}); err != nil {
			return fmt.Errorf("%w; --unchecked-routes leaves it to the gateway", err)
		}
	}
	return nil
}
