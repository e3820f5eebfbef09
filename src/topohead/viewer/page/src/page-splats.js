// The page with Spark, for scenes that hold splats.
import { Bundle, PlayedSplats } from "./bundle.js";
import { Splats } from "./splats.js";
import { start } from "./viewer.js";

start({ splats: Splats.open, bundle: Bundle.open, played: PlayedSplats.open });
