"""Pure functions of models: prompts, pictures and pages."""
